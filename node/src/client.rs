//! JSON-RPC from the command line's side: finding the node, calling it, and saying plainly what went wrong.

use crate::{cli::ClientArgs, datadir, error::NodeError, rpc::types::*, secrets};
use ailo_ledger::{Transaction, store::Subject};
use ailo_protocol::{Address, Hash, Keypair, Username, keystore};
use jsonrpsee::core::{
    client::{ClientT, Error as RpcError},
    params::ObjectParams,
};
use jsonrpsee_http_client::{HttpClient, HttpClientBuilder};
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
        let http = HttpClientBuilder::default().request_timeout(Duration::from_secs(60)).build(url).map_err(|e| {
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
        let path = dir.join("rpc");
        let url = std::fs::read_to_string(&path).map_err(|_| {
            NodeError::Rpc(format!(
                "no node runs in {}: start one with `ailo-node run`, or name one with --rpc or --data-dir",
                dir.display()
            ))
        })?;
        Client::new(url.trim())
    }

    /// Calls a method with named parameters.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[(&str, serde_json::Value)],
    ) -> Result<T, NodeError> {
        let mut object = ObjectParams::new();
        for (name, value) in params {
            object.insert(name, value).map_err(|e| NodeError::Rpc(e.to_string()))?;
        }
        self.http.request(method, object).await.map_err(|e| match e {
            RpcError::Call(error) => {
                let message = error.message().to_string();
                let refusal = error.data().and_then(|data| serde_json::from_str::<RefusalView>(data.get()).ok());
                match refusal {
                    Some(RefusalView { code }) => NodeError::Refused { code, message },
                    None => NodeError::Rpc(message),
                }
            }
            RpcError::Transport(_) | RpcError::RequestTimeout => NodeError::Rpc(format!(
                "no node answers at {}: start one with `ailo-node run`, or name another with --rpc",
                self.url
            )),
            other => NodeError::Rpc(format!("{} answered in a way that is not understood: {other}", self.url)),
        })
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
