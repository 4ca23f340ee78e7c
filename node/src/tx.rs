//! `tx ...`: a transaction is made where the network is known, signed where the key is, and sent from anywhere. What goes from one to
//! the next is a file:
//!
//! ```json
//! { "version": 1, "network": "<64 hex>", "unsigned": "<canonical bytes in hex>", "signature": "<128 hex, once it is signed>" }
//! ```

use crate::{
    cli::{BodyCommand, BuildArgs, ClientArgs, TxCommand},
    client::{self, Client},
    commands::Included,
    datadir::write_atomically,
    error::NodeError,
    genesis::now_ms,
    holders,
    logs::{printable, timestamp},
    output::show,
    secrets,
};
use ailo_ledger::{
    Body, Transaction,
    transaction::{MAX_TRANSACTION_BYTES, Unsigned, recovery_agreement, recovery_commitment},
};
use ailo_protocol::{Address, Hash, Signature, canonical, keystore};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fmt::Write,
    fs,
    io::Read,
    path::Path,
    time::{Duration, SystemTime},
};

const VERSION: u32 = 1;
/// How long a real network takes a transaction after it was made, and how much before that (`ledger.transaction_ttl_ms`, `skew_ms`).
const USUAL_TTL_MS: u64 = 600_000;
const USUAL_SKEW_MS: u64 = 30_000;
/// Later than anybody's clock.
const MAX_TIME_MS: u64 = 1 << 46;
/// Two hexadecimal digits a byte, and the rest of the file.
const MAX_FILE_BYTES: u64 = 2 * MAX_TRANSACTION_BYTES as u64 + 1024;

/// Runs a command of `tx`.
pub async fn command(command: TxCommand) -> Result<(), NodeError> {
    match command {
        TxCommand::Build(args) => build(*args).await,
        TxCommand::Show { file } => describe(&Draft::read(&file)?),
        TxCommand::Sign { file, wallet } => {
            let draft = Draft::read(&file)?;
            let public = keystore::public(&wallet, keystore::Kind::Wallet)?;
            if public != draft.unsigned.signer {
                let (asked, found) = (draft.unsigned.signer, wallet.display());
                return Err(NodeError::Usage(format!(
                    "{} is to be signed by the key {asked}, and {found} holds {public}: name that wallet with --wallet",
                    file.display()
                )));
            }
            let key = secrets::load(&wallet, keystore::Kind::Wallet)?;
            let signature = key.sign(&draft.unsigned.signing_bytes(&draft.network));
            complete(draft, signature, &file)
        }
        TxCommand::Attach { file, signature } => complete(Draft::read(&file)?, signature, &file),
        TxCommand::Submit { file, client } => submit(&Draft::read(&file)?, &file, &client).await,
    }
}

/// A transaction on its way to a signature.
pub(crate) struct Draft {
    pub network: Hash,
    pub unsigned: Unsigned,
    pub signature: Option<Signature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftFile {
    version: u32,
    network: Hash,
    unsigned: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

impl Draft {
    fn read(path: &Path) -> Result<Draft, NodeError> {
        let mut text = String::new();
        let file = fs::File::open(path).map_err(|e| NodeError::file("read", path, e))?;
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(|e| NodeError::file("read", path, e))?;
        Draft::parse(&text).map_err(|why| {
            NodeError::Usage(format!("{} is no transaction of `ailo-node tx build`: {why}", path.display()))
        })
    }

    /// Reads what such a file holds; or why that is none.
    pub(crate) fn parse(text: &str) -> Result<Draft, String> {
        let file: DraftFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if file.version != VERSION {
            return Err(format!("its version is {}, this program reads {VERSION}", file.version));
        }
        let bytes = hex::decode(&file.unsigned).map_err(|_| "its bytes are not hexadecimal")?;
        let unsigned =
            canonical::decode(&bytes, MAX_TRANSACTION_BYTES).map_err(|e| format!("its bytes are none: {e}"))?;
        Ok(Draft { network: file.network, unsigned, signature: file.signature })
    }

    fn file(&self) -> DraftFile {
        let unsigned = hex::encode(canonical::encode(&self.unsigned));
        DraftFile { version: VERSION, network: self.network, unsigned, signature: self.signature }
    }

    /// What its file holds.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(&self.file()).unwrap_or_default() // It always is JSON.
    }

    fn write(&self, path: &Path) -> Result<(), NodeError> {
        write_atomically(path, self.text().as_bytes())
    }

    /// With its signature, if that holds.
    pub(crate) fn signed(&self) -> Option<Transaction> {
        let transaction = Transaction { unsigned: self.unsigned.clone(), signature: self.signature? };
        transaction.verify(&self.network).is_ok().then_some(transaction)
    }

    fn id(&self) -> Hash {
        Transaction { unsigned: self.unsigned.clone(), signature: Signature([0; 64]) }.id() // of the unsigned part alone
    }
}

/// A client of the node that the flags name, if it is of the network that they name.
async fn node(args: &ClientArgs) -> Result<Client, NodeError> {
    let client = Client::find(args)?;
    client.network().await?;
    Ok(client)
}

/// What the command makes, as the wallet's own commands make it.
async fn body(command: BodyCommand, network: &Hash, args: &ClientArgs) -> Result<Body, NodeError> {
    Ok(match command {
        BodyCommand::Transfer { to, amount, memo } => Body::Transfer { to, amount, memo },
        BodyCommand::Dispute { transfer } => Body::Dispute { transfer },
        BodyCommand::Report { transfer, node } => Body::Report { transfer, node },
        BodyCommand::WithdrawReport { transfer, node } => Body::WithdrawReport { transfer, node },
        BodyCommand::Stake { amount, node } => Body::Stake { node, amount },
        BodyCommand::Unstake { amount, node } => Body::Unstake { node, amount },
        BodyCommand::Unjail { node } => Body::Unjail { node },
        BodyCommand::Deposit { amount } => Body::Deposit { amount },
        BodyCommand::WithdrawDeposit { amount } => Body::WithdrawDeposit { amount },
        BodyCommand::Username { name } => Body::RegisterUsername { name },
        BodyCommand::Challenge { round, node } => Body::Challenge { round, node },
        BodyCommand::Propose { changes, why } => Body::Propose { changes, why },
        BodyCommand::Vote { proposal, vote } => Body::Vote { proposal, approve: vote == "yes" },
        BodyCommand::Protect { recovery } => Body::SetRecovery { commitment: recovery_commitment(network, &recovery) },
        BodyCommand::Recover { account, key, agreed, next, count } => {
            let count = match count {
                Some(count) => count,
                None => node(args).await?.recoverable(&account).await?,
            };
            let bytes = recovery_agreement(network, &account, count);
            let sign = hex::encode(&bytes);
            let Some(agreed) = agreed else {
                return Err(NodeError::Usage(format!(
                    "the new key {key} has to agree: let it sign these 32 bytes (ed25519), and run this again with --agreed and what it signed: {sign}"
                )));
            };
            if key.verify(&bytes, &agreed).is_err() {
                return Err(NodeError::Usage(format!(
                    "--agreed does not hold: it must be ed25519, by the key {key}, over the 32 bytes {sign}"
                )));
            }
            Body::Recover { account, count, key, agreed, next: recovery_commitment(network, &next) }
        }
        BodyCommand::Accuse { charge } => Body::Accuse(holders::read_charge(&charge)?),
    })
}

async fn build(args: BuildArgs) -> Result<(), NodeError> {
    let BuildArgs { body: command, from, nonce, network_id, time_ms, out, data_dir, rpc, wallet_file } = args;
    let args = ClientArgs { data_dir, rpc, wallet_file, network_id };
    if let Some(out) = out.as_ref().filter(|out| out.exists()) {
        return Err(NodeError::Usage(format!("{} exists already: choose another --out", out.display())));
    }
    let signer = match from {
        Some(key) => key,
        None => keystore::public(&client::wallet_path(&args)?, keystore::Kind::Wallet)?,
    };
    // Whatever the flags say, nobody is asked for.
    let network = match network_id {
        Some(network) => network,
        None => Client::find(&args)?.network().await?,
    };
    let nonce = match nonce {
        Some(nonce) => nonce,
        None if matches!(command, BodyCommand::Recover { .. }) => 0, // a recovery key has no account that could count
        None => node(&args).await?.next_nonce(&signer).await?,
    };
    let time_ms = time_ms.unwrap_or_else(now_ms);
    let unsigned = Unsigned { signer, nonce, time_ms, body: body(command, &network, &args).await? };
    let draft = Draft { network, unsigned, signature: None };
    match out {
        None => show(&draft.file(), |out| writeln!(out, "{}", draft.text())),
        Some(path) => {
            draft.write(&path)?;
            describe(&draft)
        }
    }
}

fn complete(draft: Draft, signature: Signature, path: &Path) -> Result<(), NodeError> {
    let draft = Draft { signature: Some(signature), ..draft };
    if draft.signed().is_none() {
        return Err(NodeError::Usage(format!(
            "this signature does not hold for {}: it must be ed25519, by the key {}, over the 32 bytes that `ailo-node tx show` names",
            path.display(),
            draft.unsigned.signer
        )));
    }
    draft.write(path)?;
    describe(&draft)
}

async fn submit(draft: &Draft, path: &Path, args: &ClientArgs) -> Result<(), NodeError> {
    let transaction = draft.signed().ok_or_else(|| {
        NodeError::Usage(format!("{} is not signed: `ailo-node tx sign` or `tx attach` does that", path.display()))
    })?;
    let client = Client::find(args)?;
    let network = client.network().await?;
    if network != draft.network {
        return Err(NodeError::Usage(format!(
            "{} is for the network {}, the node at {} is of {network}: ask another with --rpc",
            path.display(),
            draft.network,
            client.url()
        )));
    }
    // Whoever is not sure whether it was sent sends it again, and is told what became of it.
    let id = draft.id();
    if client.find_transaction(&id).await?.is_none() {
        client.submit(&transaction).await?;
    }
    Included::wait(client, &id).await?.say(&words(&transaction.unsigned.body))
}

/// A time for people and programs.
fn clock(time_ms: u64) -> String {
    timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(time_ms.min(MAX_TIME_MS)))
}

fn describe(draft: &Draft) -> Result<(), NodeError> {
    let Unsigned { signer, nonce, time_ms, body } = &draft.unsigned;
    let (id, sign) = (draft.id(), hex::encode(draft.unsigned.signing_bytes(&draft.network)));
    let valid = draft.signature.map(|_| draft.signed().is_some());
    let (address, does) = (Address::from(signer), words(body));
    let (made, before) = (clock(*time_ms), clock(time_ms.saturating_add(USUAL_TTL_MS)));
    let late = match now_ms() {
        now if now > time_ms.saturating_add(USUAL_TTL_MS) => ": TOO LATE, build it again",
        now if now.saturating_add(USUAL_SKEW_MS) < *time_ms => ", and not yet",
        _ => "",
    };
    let shown = json!({ "network": draft.network, "id": id, "signer": signer, "address": address, "nonce": nonce,
                        "time_ms": time_ms, "send_before": before, "body": body, "words": does, "sign": sign, "signature": draft.signature,
                        "signature_holds": valid });
    show(&shown, |out| {
        writeln!(out, "does       {does}")?;
        writeln!(out, "signer     {signer}, of {address} unless a recovery gave the key another account")?;
        writeln!(out, "nonce      {nonce}")?;
        writeln!(out, "made       {made}")?;
        writeln!(out, "to be sent before {before}{late}   (where ledger.transaction_ttl_ms is a real network's)")?;
        writeln!(out, "network    {}", draft.network)?;
        writeln!(out, "id         {id}")?;
        writeln!(out, "sign       {sign}   (these 32 bytes, ed25519)")?;
        let standing = match valid {
            None => "missing: `ailo-node tx sign` or `tx attach` adds it",
            Some(true) => "holds: `ailo-node tx submit` sends it",
            Some(false) => "does NOT hold",
        };
        writeln!(out, "signature  {standing}")
    })
}

/// What it does, in plain words.
pub(crate) fn words(body: &Body) -> String {
    match body {
        Body::Transfer { to, amount, memo } if memo.is_empty() => format!("sends {amount} ALC to {to}"),
        Body::Transfer { to, amount, memo } => format!("sends {amount} ALC to {to}, with the text {memo:?}"),
        Body::Dispute { transfer } => format!("takes the transfer {transfer} back"),
        Body::Report { transfer, node } => format!("calls the transfer {transfer} a fraud, in the name of node {node}"),
        Body::WithdrawReport { transfer, node } => format!("takes node {node}'s report of {transfer} back"),
        Body::Stake { node, amount } => format!("bonds {amount} ALC to node {node}"),
        Body::Unstake { node, amount } => format!("starts to free {amount} ALC that are bonded to node {node}"),
        Body::Unjail { node } => format!("lets node {node} back in"),
        Body::Deposit { amount } => format!("deposits {amount} ALC for inference"),
        Body::WithdrawDeposit { amount } => format!("takes {amount} ALC of the deposit back"),
        Body::RegisterUsername { name: Some(name) } => format!("takes the user name {name}"),
        Body::RegisterUsername { name: None } => "gives the user name up".into(),
        Body::SetRecovery { commitment } => format!("names a recovery key, once: the one of commitment {commitment}"),
        Body::Recover { account, key, next, .. } => {
            format!("gives the account {account} the key {key}, and a next recovery key: the one of commitment {next}")
        }
        Body::Accuse(charge) => {
            let node = charge.signed.node;
            format!(
                "accuses node {node} of signing what it did not compute, and shows the beginning of the text to everybody"
            )
        }
        Body::Challenge { round, node } => format!("calls node {node}'s contribution to round {round} forged"),
        Body::Propose { changes, why } => format!("proposes {}, because {why:?}", printable(&changes.join(", "))),
        Body::Vote { proposal, approve } => {
            format!("votes {} on proposal {proposal}", if *approve { "yes" } else { "no" })
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ailo_protocol::{Amount, Keypair};

    fn draft(key: &Keypair) -> Draft {
        let body = Body::Transfer { to: Address([7; 20]), amount: Amount(150_000_000), memo: "tea".into() };
        let unsigned = Unsigned { signer: *key.public(), nonce: 3, time_ms: 1, body };
        Draft { network: Hash([1; 32]), unsigned, signature: None }
    }

    #[test]
    fn a_draft_survives_its_file_and_a_signature_counts_for_it_alone() {
        let (dir, key) = (tempfile::tempdir().unwrap(), Keypair::from_seed([5; 32]));
        let path = dir.path().join("tx.json");
        let made = draft(&key);
        made.write(&path).unwrap();
        let read = Draft::read(&path).unwrap();
        assert!(read.unsigned == made.unsigned && read.network == made.network && read.signed().is_none());

        // What a device signs that knows nothing but the bytes.
        let signature = key.sign(&read.unsigned.signing_bytes(&read.network));
        complete(read, signature, &path).unwrap();
        let signed = Draft::read(&path).unwrap().signed().unwrap();
        assert_eq!(
            signed.encode(),
            Transaction::sign(&Hash([1; 32]), &key, 3, 1, signed.unsigned.body.clone()).encode()
        );

        let elsewhere = Draft { network: Hash([2; 32]), ..Draft::read(&path).unwrap() };
        assert!(elsewhere.signed().is_none(), "no signature is valid on another network");
        let refused = complete(draft(&key), Signature([9; 64]), &path).unwrap_err().to_string();
        assert!(refused.contains("does not hold"), "{refused}");
    }

    #[test]
    fn the_times_that_are_shown_are_a_real_networks() {
        let ledger = ailo_protocol::presets::main().ledger;
        assert_eq!((USUAL_TTL_MS, USUAL_SKEW_MS), (ledger.transaction_ttl_ms, ledger.skew_ms));
        assert!(clock(0).starts_with("1970-01-01T") && !clock(u64::MAX).is_empty());
    }

    #[test]
    fn what_is_no_draft_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tx.json");
        for text in ["", "{}", "[1]", r#"{"version":2,"network":"00","unsigned":""}"#] {
            fs::write(&path, text).unwrap();
            let refused = Draft::read(&path).err().unwrap().to_string();
            assert!(refused.contains("tx.json") && refused.contains("tx build"), "{text}: {refused}");
        }
    }
}
