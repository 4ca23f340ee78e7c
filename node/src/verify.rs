//! The `verify` command: asks a node for certificates and proofs, and believes nothing of what it answers but what they
//! show (`ailo_ledger::light` holds the rules; here are the questions, the clock, and the words).

use crate::{
    cli::{VerifyArgs, VerifyCommand},
    client::{self, Client},
    datadir,
    error::NodeError,
    genesis::{self, now_ms},
    output::show,
    progress::Progress,
    rpc::{light::*, params::MAX_HEADERS, types::At},
    service::anchor,
};
use ailo_ledger::{
    Body, Header,
    light::{Advance, Checkpoint, LightBlock, LightClient, LightError, Standing, Verified},
    state::{Entry, Key, TransferStatus},
};
use ailo_protocol::{
    Address, Genesis, Hash, NodeId, Username,
    canonical::{self, CodecError},
};
use serde_json::{Value, json};
use std::{
    fmt::{self, Write},
    path::{Path, PathBuf},
};

/// A header's canonical bytes are at most this long.
const MAX_HEADER_BYTES: usize = 1 << 10;
/// A head this much older than the clock may be due to a node that hides what came since.
const STALE_BLOCKS: u64 = 12;

/// Runs `verify`.
pub async fn command(command: VerifyCommand) -> Result<(), NodeError> {
    match command {
        VerifyCommand::Account { address, against } => Check::start(&against).await?.account(&address).await,
        VerifyCommand::Node { key, against } => Check::start(&against).await?.node(&key).await,
        VerifyCommand::Transaction { id, against } => Check::start(&against).await?.transaction(&id).await,
        VerifyCommand::Model(against) => Check::start(&against).await?.model().await,
    }
}

/// Who has a user name now, as the node at `url` proves it against the network of the folder `dir`, and without being believed.
pub async fn owner(url: &str, dir: &Path, name: &Username) -> Result<Address, NodeError> {
    let checkpoint = anchor::read(&dir.join("ledger"));
    let (rpc, data_dir) = (Some(url.into()), Some(dir.into()));
    let mut check = Check::start(&VerifyArgs { rpc, network: "dev".into(), data_dir, checkpoint }).await?;
    let key = Key::Owner(*name);
    let claim = check.claim("key", hex::encode(canonical::encode(&key)).into()).await?;
    let head = check.reach(claim.height).await?;
    let entry = head.entry(&key, claim.entry.as_deref(), &claim.proof).map_err(refused)?;
    if check.is_stale(&head) {
        return Err(NodeError::Check(format!(
            "the node at {url} shows no new block: @{name} may have changed hands since its last one; ask another node"
        )));
    }
    match entry {
        Some(Entry::Owner(owner)) => Ok(owner.0),
        _ => Err(NodeError::Usage(format!("nobody has the user name {name}"))),
    }
}

/// A light client and the node that it asks.
struct Check {
    node: Client,
    genesis: Genesis,
    light: LightClient,
    asking: Progress,
}

/// An answer to `ailo_proof`, not believed yet.
struct Claim {
    height: u64,
    entry: Option<Vec<u8>>,
    proof: Vec<u8>,
}

fn refused(e: LightError) -> NodeError {
    NodeError::Check(format!("NOT VERIFIED: {e}"))
}

fn unreadable(what: &str) -> NodeError {
    NodeError::Check(format!("NOT VERIFIED: the node's {what} can't be read: ask another node"))
}

fn bytes(what: &str, text: &str) -> Result<Vec<u8>, NodeError> {
    hex::decode(text).map_err(|_| unreadable(what))
}

impl Check {
    async fn start(args: &VerifyArgs) -> Result<Check, NodeError> {
        let genesis = genesis::read(&network_file(args)?)?;
        let node = match &args.rpc {
            Some(url) => Client::new(url)?,
            None => Client::in_folder(&data_dir(args)?)?,
        };
        let light = LightClient::from_genesis(&genesis);
        let mut check = Check { node, genesis, light, asking: Progress::wait("asking for proofs") };
        if let Some(checkpoint) = args.checkpoint {
            let block = check.block(Some(checkpoint.height)).await.map_err(|e| match e {
                NodeError::Rpc(e) => NodeError::Rpc(format!(
                    "the node does not give the checkpoint's block {} ({e}): ask one that has caught up",
                    checkpoint.height
                )),
                other => other,
            })?;
            let light = LightClient::from_checkpoint(&check.genesis, checkpoint, &block, now_ms());
            check.light = light.map_err(refused)?;
        }
        Ok(check)
    }

    async fn block(&self, height: Option<u64>) -> Result<LightBlock, NodeError> {
        let params: Vec<_> = height.map(|height| ("height", client::json(&height))).into_iter().collect();
        let reply: At<LightBlockView> = self.node.call("ailo_lightBlock", &params).await?;
        let block = LightBlock::decode(&bytes("block", &reply.value.light_block)?);
        let block = block.map_err(|e| refused(e.into()))?;
        match height {
            Some(height) if block.header.height != height => Err(NodeError::Check(format!(
                "NOT VERIFIED: asked for block {height}, the node sent block {}: ask another node",
                block.header.height
            ))),
            _ => Ok(block),
        }
    }

    async fn claim(&self, name: &str, value: Value) -> Result<Claim, NodeError> {
        let reply: At<ProofView> = self.node.call("ailo_proof", &[(name, value)]).await?;
        let entry = reply.value.entry.as_deref().map(|text| bytes("entry", text)).transpose()?;
        Ok(Claim { height: reply.height, entry, proof: bytes("proof", &reply.value.proof)? })
    }

    /// Verifies the header at `height`, going half way wherever too few of the validators that are trusted signed.
    async fn reach(&mut self, height: u64) -> Result<Verified, NodeError> {
        if height > self.light.height() {
            let block = self.block(Some(height)).await?;
            self.follow(block).await?;
        }
        match self.light.head() {
            Some(head) if head.header().height == height => Ok(head.clone()),
            _ => Err(NodeError::Check(format!(
                "NOT VERIFIED: the node answers for block {height}, and block {} is verified already: it lags behind; ask \
                 another node",
                self.light.height()
            ))),
        }
    }

    async fn follow(&mut self, block: LightBlock) -> Result<(), NodeError> {
        let mut waiting = vec![block]; // halves each time, so it never holds more than 64
        while let Some(block) = waiting.last() {
            match self.light.advance(block, now_ms()).map_err(refused)? {
                Advance::Reached => drop(waiting.pop()),
                Advance::TooFar { between } => {
                    let block = self.block(Some(between)).await?;
                    waiting.push(block);
                }
            }
        }
        Ok(())
    }

    /// A header below one that is verified: by the chain of parents, which commit to each other.
    async fn reach_back(&self, mut from: Verified, height: u64) -> Result<Verified, NodeError> {
        while from.header().height > height {
            let top = from.header().height - 1;
            let wanted = (top - height + 1).min(u64::from(MAX_HEADERS));
            let params = [("from", client::json(&top)), ("limit", client::json(&wanted))];
            let reply: At<HeadersView> = self.node.call("ailo_headers", &params).await?;
            let headers = reply.value.headers;
            if headers.is_empty() || headers.len() as u64 > wanted {
                return Err(unreadable("headers"));
            }
            for text in headers {
                let header: Result<Header, CodecError> = canonical::decode(&bytes("header", &text)?, MAX_HEADER_BYTES);
                from = from.parent(header.map_err(|e| refused(e.into()))?).map_err(refused)?;
            }
        }
        Ok(from)
    }

    async fn account(mut self, address: &Address) -> Result<(), NodeError> {
        let claim = self.claim("account", client::json(address)).await?;
        let head = self.reach(claim.height).await?;
        let account = head.account(address, claim.entry.as_deref(), &claim.proof).map_err(refused)?;
        let found = account.as_ref().map(|account| {
            json!({ "spendable": account.free, "pending": account.incoming, "staked": account.staked,
                    "unbonding": account.unbonding, "nonce": account.nonce })
        });
        self.conclude(&head, json!({ "address": address, "account": found }), |out| {
            writeln!(out, "account      {address}")?;
            let Some(account) = &account else {
                return writeln!(out, "balance      none: the ledger has no such account");
            };
            writeln!(
                out,
                "balance      {} ALC, pending {}, staked {}, unbonding {}",
                account.free, account.incoming, account.staked, account.unbonding
            )?;
            writeln!(out, "nonce        {}", account.nonce)
        })
    }

    async fn node(mut self, key: &NodeId) -> Result<(), NodeError> {
        let claim = self.claim("node", client::json(key)).await?;
        let head = self.reach(claim.height).await?;
        let node = head.node(key, claim.entry.as_deref(), &claim.proof).map_err(refused)?;
        let standing = |lapsed: bool| if lapsed { "lapsed" } else { "registered" };
        let found = node
            .as_ref()
            .map(|node| json!({ "wallet": node.wallet, "stake": node.stake, "standing": standing(node.lapsed) }));
        self.conclude(&head, json!({ "key": key, "node": found }), |out| {
            writeln!(out, "node         {key}")?;
            let Some(node) = &node else {
                return writeln!(out, "wallet       none: the ledger knows no such node");
            };
            writeln!(out, "wallet       {}\nstake        {} ALC", node.wallet, node.stake)?;
            writeln!(out, "standing     {}", standing(node.lapsed))
        })
    }

    async fn model(mut self) -> Result<(), NodeError> {
        let claim = self.claim("model", client::json(&true)).await?;
        let head = self.reach(claim.height).await?;
        let entry = claim.entry.ok_or_else(|| {
            refused(LightError::Proof { what: "a model, which every ledger has,", height: claim.height })
        })?;
        let model = head.model(&entry, &claim.proof).map_err(refused)?;
        let found = json!({ "root": model.root, "rounds": model.steps, "loss_micro_nats": model.loss });
        self.conclude(&head, json!({ "model": found }), |out| {
            writeln!(out, "model        {}\nrounds       {}", model.root, model.steps)?;
            match model.loss {
                Some(loss) => writeln!(out, "loss         {:.4} nats a token, held out", loss as f64 / 1e6),
                None => Ok(()),
            }
        })
    }

    async fn transaction(mut self, id: &Hash) -> Result<(), NodeError> {
        let reply: At<TransactionProofView> =
            self.node.call("ailo_transactionProof", &[("id", client::json(id))]).await?;
        let TransactionProofView { block_height: height, transaction, proof } = reply.value;
        let including = match self.light.head() {
            Some(head) if height < head.header().height => self.reach_back(head.clone(), height).await?,
            _ => self.reach(height).await?,
        };
        let (transaction, proof) = (bytes("transaction", &transaction)?, bytes("proof", &proof)?);
        let transaction = including.transaction(id, &transaction, &proof).map_err(refused)?;
        let standing = match &transaction.unsigned.body {
            Body::Transfer { to, amount, .. } => {
                let key = hex::encode(canonical::encode(&Key::Transfer(*id)));
                let claim = self.claim("key", client::json(&key)).await?;
                let head = self.reach(claim.height).await?;
                let transfer = head.transfer(id, claim.entry.as_deref(), &claim.proof).map_err(refused)?;
                let standing = match transfer.map(|transfer| transfer.status) {
                    Some(TransferStatus::Pending) => "PENDING",
                    Some(TransferStatus::Confirmed) => "CONFIRMED",
                    None => "ended (REFUNDED or FINAL): the ledger's state holds it no longer",
                };
                Some((*to, *amount, standing))
            }
            _ => {
                let head = self.block(None).await?;
                if head.header.height > self.light.height() {
                    self.follow(head).await?;
                }
                None
            }
        };
        let block = including.checkpoint();
        let transfer =
            standing.map(|(to, amount, standing)| json!({ "to": to, "amount": amount, "standing": standing }));
        let found = json!({ "id": id, "transaction": transaction, "block": block.to_string(), "transfer": transfer });
        let head = self.light.head().unwrap_or(&including);
        self.conclude(head, json!({ "transaction": found }), |out| {
            writeln!(out, "transaction  {id}\nby           {}", transaction.unsigned.signer)?;
            writeln!(out, "included in  block {block}")?;
            match standing {
                Some((to, amount, standing)) => {
                    writeln!(out, "transfer     {amount} ALC to {to}\nstanding     {standing}")
                }
                None => Ok(()),
            }
        })
    }

    /// Whether there should be newer blocks than this one.
    fn is_stale(&self, head: &Verified) -> bool {
        let ledger = &self.genesis.params.ledger;
        let age_ms = now_ms().saturating_sub(head.header().time_ms);
        age_ms > STALE_BLOCKS.saturating_mul(ledger.idle_block_ms).saturating_add(ledger.skew_ms)
    }

    /// Says what was found, at which block it was verified, and how far that can be relied on.
    fn conclude(
        &self,
        head: &Verified,
        found: Value,
        text: impl FnOnce(&mut String) -> fmt::Result,
    ) -> Result<(), NodeError> {
        let header = head.header();
        let age_ms = now_ms().saturating_sub(header.time_ms);
        let anchor = match self.light.standing() {
            Standing::Anchored(checkpoint) => Some(checkpoint.to_string()),
            Standing::NoCheckpoint | Standing::Expired(..) => None,
        };
        let stale = self.is_stale(head);
        let verified = json!({ "checkpoint": head.checkpoint().to_string(), "state_root": header.state_root,
                               "age_ms": age_ms, "anchored_by": anchor, "stale": stale });
        let said = json!({ "found": found, "verified": verified });
        let say = || {
            show(&said, |out| {
                text(out)?;
                self.describe(out, head, age_ms, stale)
            })
        };
        self.asking.beside(say)
    }

    fn describe(&self, out: &mut String, head: &Verified, age_ms: u64, stale: bool) -> fmt::Result {
        let header = head.header();
        writeln!(out, "VERIFIED     in block {}", head.checkpoint())?;
        writeln!(out, "state root   {}", header.state_root)?;
        writeln!(out, "made         {} s ago", age_ms / 1000)?;
        let trust_ms = self.genesis.params.ledger.trust_ms;
        match self.light.standing() {
            Standing::Anchored(checkpoint) => writeln!(out, "ANCHORED     by checkpoint {checkpoint}")?,
            Standing::NoCheckpoint => writeln!(
                out,
                "UNANCHORED   no checkpoint was given: this holds unless validators of the past wrote another history; \
                 compare the id with a source you trust"
            )?,
            Standing::Expired(Checkpoint { height, .. }, _) => writeln!(
                out,
                "UNANCHORED   the checkpoint at height {height} is older than the trust period of {}: compare the \
                 id with a source you trust",
                span(trust_ms)
            )?,
        }
        writeln!(
            out,
            "checkpoint   {}   (keep it for the next --checkpoint; it counts for {})",
            head.checkpoint(),
            span(trust_ms.saturating_sub(age_ms))
        )?;
        if stale {
            writeln!(
                out,
                "note         the node has shown nothing newer: it lags, or hides what came since; ask another node too"
            )?;
        }
        Ok(())
    }
}

/// A duration for people.
fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds if seconds < 120 => format!("{seconds} seconds"),
        seconds if seconds < 2 * 3600 => format!("{} minutes", seconds / 60),
        seconds if seconds < 2 * 86_400 => format!("{} hours", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn data_dir(args: &VerifyArgs) -> Result<PathBuf, NodeError> {
    args.data_dir.clone().map_or_else(|| datadir::default_dir("dev"), Ok)
}

fn network_file(args: &VerifyArgs) -> Result<PathBuf, NodeError> {
    if args.network != "dev" {
        return Ok(Path::new(&args.network).to_path_buf());
    }
    let file = data_dir(args)?.join("network.toml");
    if !file.exists() {
        return Err(NodeError::Usage(format!(
            "there is no {}: name the network's file with --network, or the node's folder with --data-dir",
            file.display()
        )));
    }
    Ok(file)
}
