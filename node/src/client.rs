//! JSON-RPC from the command line's side: finding the node, calling it, and saying plainly what went wrong.

use crate::{
    cli::ClientArgs,
    datadir,
    error::NodeError,
    genesis,
    logs::printable,
    operator,
    rpc::{
        errors::{Code, ErrorData},
        types::*,
    },
    secrets,
};
use ailo_ledger::{Transaction, store::Subject};
use ailo_protocol::{Address, Hash, Keypair, PublicKey, Username, keystore};
use axum::http::{Uri, header};
use jsonrpsee::core::{
    client::{ClientT, Error as RpcError},
    params::ObjectParams,
};
use jsonrpsee_http_client::{HeaderMap, HeaderValue, HttpClient, HttpClientBuilder};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// A node's JSON-RPC.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    url: String,
    /// The network that it must be of, where something is signed.
    network_id: Option<Hash>,
    /// A folder whose network that must be, too.
    folder: Option<PathBuf>,
}

/// What of a status is signed for.
#[derive(Deserialize)]
struct OfNetwork {
    network: Hash,
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
        Ok(Client { http, url: url.into(), network_id: None, folder: None })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The node that the flags name: `--rpc`, or what the node in the data folder serves.
    pub fn find(args: &ClientArgs) -> Result<Client, NodeError> {
        let client = match &args.rpc {
            Some(url) => Client::new(url)?,
            None => Client::in_folder(&data_dir(args)?)?,
        };
        Ok(Client { network_id: args.network_id, folder: args.data_dir.clone(), ..client })
    }

    /// Whether it is on another machine, as its address has it.
    pub fn is_elsewhere(&self) -> bool {
        let address = self.url.parse::<Uri>().ok();
        let host = address.as_ref().and_then(|address| address.host()).unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback())
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
                let message = printable(error.message());
                let refused = [Code::Refused, Code::Malformed].iter().any(|code| code.number() == error.code());
                let data = error.data().filter(|_| refused);
                match data.and_then(|data| serde_json::from_str::<ErrorData>(data.get()).ok()) {
                    Some(ErrorData { code }) => NodeError::Refused { code: printable(&code), message },
                    None => NodeError::Rpc(message),
                }
            }
            RpcError::Transport(_) | RpcError::RequestTimeout => NodeError::Rpc(format!(
                "no node answers at {}: start one with `ailo-node run`, or name another with --rpc",
                self.url
            )),
            other => {
                let why = printable(&other.to_string());
                NodeError::Rpc(format!("{} answered in a way that is not understood: {why}", self.url))
            }
        }
    }

    /// The same, or nothing where the node says that there is none.
    async fn look<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[(&str, serde_json::Value)],
    ) -> Result<Option<T>, NodeError> {
        match self.ask(method, params).await {
            Ok(found) => Ok(Some(found)),
            Err(RpcError::Call(error)) if error.code() == Code::NotFound.number() => Ok(None),
            Err(e) => Err(self.failure(e)),
        }
    }

    /// `ailo_round`; none for one that the ledger does not keep.
    pub async fn round(&self, number: Option<u64>) -> Result<Option<At<RoundView>>, NodeError> {
        self.look("ailo_round", &[("number", json(&number))]).await
    }

    /// `ailo_status`
    pub async fn status(&self) -> Result<At<Status>, NodeError> {
        self.call("ailo_status", &[]).await
    }

    /// The id of the network that something is to be signed for: the node's, if that is the one that was named, and the data folder's.
    pub async fn network(&self) -> Result<Hash, NodeError> {
        let OfNetwork { network } = self.call::<At<OfNetwork>>("ailo_status", &[]).await?.value;
        let kept = self.folder.as_ref().map(|folder| folder.join("network.toml")).filter(|file| file.exists());
        let kept = kept.map(|file| genesis::read(&file)).transpose()?.map(|genesis| genesis.id());
        match self.network_id.into_iter().chain(kept).find(|wanted| *wanted != network) {
            None => Ok(network),
            Some(wanted) => Err(NodeError::Usage(format!(
                "the node at {} is of the network {network}, not of {wanted}: ask another with --rpc",
                self.url
            ))),
        }
    }

    /// `ailo_account`
    pub async fn account(&self, address: &Address) -> Result<At<AccountView>, NodeError> {
        self.call("ailo_account", &[("address", json(address))]).await
    }

    /// How many recoveries an account has had that has a recovery key.
    pub async fn recoverable(&self, account: &Address) -> Result<u64, NodeError> {
        match self.account(account).await?.value {
            AccountView { recoveries, recoverable: true, .. } => Ok(recoveries),
            _ => Err(NodeError::Usage(format!("{account} has no recovery key: nothing can give it another key"))),
        }
    }

    /// `ailo_nextNonce`
    pub async fn next_nonce(&self, key: &PublicKey) -> Result<u64, NodeError> {
        let reply: At<NextNonce> = self.call("ailo_nextNonce", &[("key", json(key))]).await?;
        Ok(reply.value.nonce)
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

    /// The same; none where the node knows no such transaction.
    pub async fn find_transaction(&self, id: &Hash) -> Result<Option<At<TransactionView>>, NodeError> {
        self.look("ailo_transaction", &[("id", json(id))]).await
    }

    /// `ailo_submit`. A node that does not say no may have taken it.
    pub async fn submit(&self, transaction: &Transaction) -> Result<Hash, NodeError> {
        let (id, bytes) = (transaction.id(), hex::encode(transaction.encode()));
        match self.ask::<At<Submitted>>("ailo_submit", &[("transaction", json(&bytes))]).await {
            Ok(_) => Ok(id),
            Err(e @ RpcError::Call(_)) => Err(self.failure(e)),
            Err(e) => {
                Err(NodeError::Sent { id, why: format!("whether it was taken is not known ({})", self.failure(e)) })
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_on_this_machine_is_told_from_others() {
        let elsewhere = |url: &str| Client::new(url).unwrap().is_elsewhere();
        for own in
            ["http://127.0.0.1:8645/rpc", "http://localhost:8645/rpc", "http://[::1]:8645/rpc", "http://127.8.8.8/"]
        {
            assert!(!elsewhere(own), "{own}");
        }
        for other in ["http://192.0.2.7:8645/rpc", "http://node.example/rpc", "http://localhost.example/rpc"] {
            assert!(elsewhere(other), "{other}");
        }
    }
}
