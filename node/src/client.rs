//! JSON-RPC from the command line's side: finding the node, calling it, and saying plainly what went wrong.

use crate::{
    cli::ClientArgs,
    datadir,
    error::NodeError,
    operator,
    rpc::{
        errors::{Code, ErrorData},
        types::*,
    },
    secrets,
};
use ailo_ledger::{Transaction, store::Subject};
use ailo_protocol::{Address, Hash, Keypair, Username, keystore};
use axum::http::header;
use jsonrpsee::core::{
    client::{ClientT, Error as RpcError},
    params::ObjectParams,
};
use jsonrpsee_http_client::{HeaderMap, HeaderValue, HttpClient, HttpClientBuilder};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A node's JSON-RPC.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    url: String,
}

impl Client {
    /// A client of the node at `url`, such as `http://127.0.0.1:8645/rpc`.
    pub fn new(url: &str) -> Result<Client, NodeError> {
        Client::with(url, HeaderMap::new())
    }

    fn with(url: &str, headers: HeaderMap) -> Result<Client, NodeError> {
        let builder = HttpClientBuilder::default().request_timeout(Duration::from_secs(60)).set_headers(headers);
        let http = builder.build(url).map_err(|e| {
            NodeError::Usage(format!("'{url}' is not a JSON-RPC address (like http://127.0.0.1:8645/rpc): {e}"))
        })?;
        Ok(Client { http, url: url.into() })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The node that the flags name: `--rpc`, or what the node in the data folder serves.
    pub fn find(args: &ClientArgs) -> Result<Client, NodeError> {
        if let Some(url) = &args.rpc {
            return Client::new(url);
        }
        Client::in_folder(&data_dir(args)?)
    }

    /// The node that runs in this data folder.
    pub fn in_folder(dir: &Path) -> Result<Client, NodeError> {
        Client::new(&url_in(dir)?)
    }

    /// The same as its operator: with the token from that folder, which no other node is shown.
    pub fn operating(dir: &Path) -> Result<Client, NodeError> {
        let said = HeaderValue::try_from(format!("Bearer {}", operator::token(dir)?));
        let mut said = said.map_err(|e| NodeError::Usage(format!("the operator's token can't be sent: {e}")))?;
        said.set_sensitive(true);
        Client::with(&url_in(dir)?, HeaderMap::from_iter([(header::AUTHORIZATION, said)]))
    }
    /// Calls a method with named parameters.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[(&str, serde_json::Value)],
    ) -> Result<T, NodeError> {
        self.ask(method, params).await.map_err(|e| self.failure(e))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[(&str, serde_json::Value)],
    ) -> Result<T, RpcError> {
        let mut object = ObjectParams::new();
        for (name, value) in params {
            object.insert(name, value)?;
        }
        self.http.request(method, object).await
    }

    fn failure(&self, error: RpcError) -> NodeError {
        match error {
            RpcError::Call(error) => {
                let message = error.message().to_string();
                let refused = [Code::Refused, Code::Malformed].iter().any(|code| code.number() == error.code());
                let data = error.data().filter(|_| refused);
                match data.and_then(|data| serde_json::from_str::<ErrorData>(data.get()).ok()) {
                    Some(ErrorData { code }) => NodeError::Refused { code, message },
                    None => NodeError::Rpc(message),
                }
            }
            RpcError::Transport(_) | RpcError::RequestTimeout => NodeError::Rpc(format!(
                "no node answers at {}: start one with `ailo-node run`, or name another with --rpc",
                self.url
            )),
            other => NodeError::Rpc(format!("{} answered in a way that is not understood: {other}", self.url)),
        }
    }

    /// `ailo_round`; none for one that the ledger does not keep.
    pub async fn round(&self, number: Option<u64>) -> Result<Option<At<RoundView>>, NodeError> {
        match self.ask("ailo_round", &[("number", json(&number))]).await {
            Ok(round) => Ok(Some(round)),
            Err(RpcError::Call(error)) if error.code() == Code::NotFound.number() => Ok(None),
            Err(e) => Err(self.failure(e)),
        }
    }

    /// `ailo_status`
    pub async fn status(&self) -> Result<At<Status>, NodeError> {
        self.call("ailo_status", &[]).await
    }

    /// `ailo_account`
    pub async fn account(&self, address: &Address) -> Result<At<AccountView>, NodeError> {
        self.call("ailo_account", &[("address", json(address))]).await
    }

    /// `ailo_owner`
    pub async fn owner(&self, name: &Username) -> Result<At<AccountView>, NodeError> {
        self.call("ailo_owner", &[("name", json(name))]).await
    }

    /// The newest page of `ailo_history`, with at most `limit` entries.
    pub async fn history(&self, subject: &Subject, limit: u32) -> Result<At<HistoryView>, NodeError> {
        let of = match subject {
            Subject::Wallet(address) => ("address", json(address)),
            Subject::Node(node) => ("node", json(node)),
            Subject::Transfer(id) => ("transfer", json(id)),
        };
        self.call("ailo_history", &[of, ("limit", json(&limit))]).await
    }

    /// `ailo_transaction`
    pub async fn transaction(&self, id: &Hash) -> Result<At<TransactionView>, NodeError> {
        self.call("ailo_transaction", &[("id", json(id))]).await
    }

    /// `ailo_submit`
    pub async fn submit(&self, transaction: &Transaction) -> Result<Hash, NodeError> {
        let bytes = hex::encode(transaction.encode());
        let reply: At<Submitted> = self.call("ailo_submit", &[("transaction", json(&bytes))]).await?;
        Ok(reply.value.id)
    }
}

/// Where the node in this data folder serves JSON-RPC.
fn url_in(dir: &Path) -> Result<String, NodeError> {
    let url = std::fs::read_to_string(dir.join("rpc")).map_err(|_| {
        NodeError::Rpc(format!(
            "no node runs in {}: start one with `ailo-node run`, or name one with --rpc or --data-dir",
            dir.display()
        ))
    })?;
    Ok(url.trim().into())
}

/// A value as JSON; what RPC sends always has a JSON form.
pub fn json<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or(serde_json::Value::Null)
}

/// The data folder that the flags name, or the development network's.
pub fn data_dir(args: &ClientArgs) -> Result<PathBuf, NodeError> {
    args.data_dir.clone().map_or_else(|| datadir::default_dir("dev"), Ok)
}

/// The wallet file that the flags name.
pub fn wallet_path(args: &ClientArgs) -> Result<PathBuf, NodeError> {
    args.wallet_file.clone().map_or_else(|| Ok(data_dir(args)?.join("wallet.json")), Ok)
}

/// The wallet's key.
pub fn wallet_key(args: &ClientArgs) -> Result<Keypair, NodeError> {
    secrets::load(&wallet_path(args)?, keystore::Kind::Wallet)
}

/// The wallet's address, as its key has it, which takes no passphrase.
pub fn wallet_address(args: &ClientArgs) -> Result<Address, NodeError> {
    Ok(Address::from(&keystore::public(&wallet_path(args)?, keystore::Kind::Wallet)?))
}
