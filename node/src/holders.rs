//! The commands of those who hold coins and stake: disputes and reports, recovery, user names, votes, challenges.

use crate::{
    cli::*,
    client::{self, Client},
    commands::{Included, lock, send, sign, submit, write_history},
    datadir::NODE_KEY,
    error::NodeError,
    genesis::now_ms,
    logs::printable,
    output::{say, show, show_secret},
    rpc::types::*,
    secrets,
};
use ailo_ledger::{
    Body, Transaction,
    state::Event,
    store::Subject,
    transaction::{Consent, recovery_agreement, recovery_commitment},
};
use ailo_protocol::{
    Address, Amount, Hash, Keypair, NodeId, PublicKey, Signature, amount::PPM, canonical, inference::proof::Charge,
    keystore,
};
use serde_json::json;
use std::{
    fmt::{self, Write},
    fs, io,
    path::{Path, PathBuf},
};

/// Runs a command of `wallet` that is about an account's rights.
pub async fn wallet(command: WalletCommand) -> Result<(), NodeError> {
    match command {
        WalletCommand::Dispute { transfer, client } => {
            send(&client, Body::Dispute { transfer }, true, "taken back; the fee of the transfer is not given back")
                .await
        }
        WalletCommand::Report(args) => report(args).await,
        WalletCommand::WithdrawReport(args) => {
            let node = node(args.node, &args.client)?;
            let done = "report withdrawn; what it had bound is back, the fee is paid";
            send(&args.client, Body::WithdrawReport { transfer: args.transfer, node }, true, done).await
        }
        WalletCommand::Deposit { amount, client } => {
            let done = format!("deposited {amount} ALC: nodes that serve this wallet are paid from it");
            send(&client, Body::Deposit { amount }, true, &done).await
        }
        WalletCommand::WithdrawDeposit { amount, client } => withdraw_deposit(amount, &client).await,
        WalletCommand::Username { name, client } => {
            let done = name.map_or("user name given up".into(), |name| {
                format!("the wallet's name is {name}: `ailo-node wallet send @{name} ...` pays it")
            });
            send(&client, Body::RegisterUsername { name }, true, &done).await
        }
        WalletCommand::Consent { node, by, signature, client } => consent(&node, by, signature, &client).await,
        WalletCommand::ProtectWithRecovery(client) => protect(&client).await,
        WalletCommand::Recover { account, client } => recover(account, &client).await,
        _ => unreachable!("the other wallet commands are handled by their own file"),
    }
}

/// Signs and submits as the wallet, and waits for the block.
async fn include(args: &ClientArgs, body: Body) -> Result<Included, NodeError> {
    let (client, id) = submit(args, body).await?;
    Included::wait(client, &id).await
}

async fn withdraw_deposit(amount: Amount, args: &ClientArgs) -> Result<(), NodeError> {
    let included = include(args, Body::WithdrawDeposit { amount }).await?;
    let leaving = |event: &Event| match event {
        Event::DepositLeaving { amount, .. } => Some(*amount),
        _ => None,
    };
    let all = included.event(leaving).await.unwrap_or(amount);
    let done =
        format!("{all} ALC of the deposit are on their way back: `ailo-node wallet show` says when they are free");
    included.say(&done)
}

async fn report(ReportArgs { transfer, node, client: args }: ReportArgs) -> Result<(), NodeError> {
    let node = self::node(node, &args)?;
    let included = include(&args, Body::Report { transfer, node }).await?;
    let count = |event: &Event| match event {
        Event::TransferReported { id, reports, seats, .. } if *id == transfer => Some((*reports, *seats)),
        _ => None,
    };
    let by = included.event(count).await.map(|(reports, seats)| format!(" by {reports} of {seats} seats"));
    let reversed = included.client.transaction(&transfer).await.is_ok_and(|seen| seen.value.status == "reversed");
    let then = match reversed {
        true => "the transfer is REVERSED, and what the report had bound is back",
        false => "coins are bound until the transfer ends or `wallet withdraw-report` takes the report back",
    };
    included.say(&format!("reported{}: {then}", by.unwrap_or_default()))
}

/// The node that is named, or the one in the data folder.
pub fn node(named: Option<NodeId>, args: &ClientArgs) -> Result<NodeId, NodeError> {
    match named {
        Some(node) => Ok(node),
        None => Ok(keystore::public(&client::data_dir(args)?.join(NODE_KEY), keystore::Kind::Node)?),
    }
}

async fn consent(
    node: &NodeId,
    by: Option<PublicKey>,
    signature: Option<Signature>,
    args: &ClientArgs,
) -> Result<(), NodeError> {
    let (key, own) = match by {
        Some(key) => (key, None),
        None => {
            let own = client::wallet_key(args)?;
            (*own.public(), Some(own))
        }
    };
    let client = Client::find(args)?;
    let network = client.network().await?;
    let wallet = client.account(&Address::from(&key)).await?.value.address;
    let bytes = Consent::signing_bytes(&network, node, &wallet);
    let Some(signature) = signature.or(own.map(|own| own.sign(&bytes))) else {
        let sign = hex::encode(&bytes);
        return show(&json!({ "sign": sign, "key": key, "wallet": wallet, "node": node }), |out| {
            writeln!(out, "sign       {sign}   (these 32 bytes, ed25519)")?;
            writeln!(out, "by         {key}, for the wallet {wallet}: it consents that node {node} works for it")?;
            writeln!(out, "then       run this again with --signature and what it signed")
        });
    };
    let consent = Consent { key, signature };
    if consent.verify(&network, node, &wallet).is_err() {
        return Err(NodeError::Usage(format!(
            "--signature does not hold: it must be ed25519, by the key {key}, over the 32 bytes {}",
            hex::encode(&bytes)
        )));
    }
    let consent = hex::encode(canonical::encode(&consent));
    say(&json!({ "consent": consent }), &consent)
}

async fn protect(args: &ClientArgs) -> Result<(), NodeError> {
    let key = client::wallet_key(args)?;
    let client = Client::find(args)?;
    let network = client.network().await?;
    let account = client.account(&Address::from(key.public())).await?.value;
    let phrase = keystore::new_phrase();
    let commitment = recovery_commitment(&network, keystore::key_from_phrase(&phrase)?.public());
    let transaction = sign(&client, &key, Body::SetRecovery { commitment }).await?;
    // Shown before the account depends on them; what the ledger would refuse makes no words.
    if !account.recoverable {
        show_words(RECOVERY, &phrase)?;
    }
    let id = client.submit(&transaction).await?;
    let done = format!("{} has a recovery key: the words above", account.address);
    Included::wait(client, &id).await?.say(&done)
}

/// What words are for: the name in JSON, the sentence for a person.
type Purpose = (&'static str, &'static str);
const RECOVERY: Purpose = (
    "recovery_words",
    "These 24 words give the account another key if its own is lost or stolen, once (`ailo-node wallet recover`). Keep them apart from the wallet:",
);
const NEW_KEY: Purpose = ("wallet_words", "These 24 words restore the new key. Keep them off-line:");

fn show_words((name, purpose): Purpose, words: &str) -> Result<(), NodeError> {
    show_secret(&json!({ name: words }), |out| writeln!(out, "{purpose}\n\n{words}\n"))
}

/// Gives a key file another name, in the place of no other file.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_os_string();
    aside.push(".unused");
    loop {
        match fs::hard_link(path, &aside) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => aside.push("-"),
            linked => return linked.and_then(|()| fs::remove_file(path)).map(|()| aside.into()),
        }
    }
}

async fn recover(account: Address, args: &ClientArgs) -> Result<(), NodeError> {
    let path = client::wallet_path(args)?;
    if path.exists() {
        return Err(NodeError::Usage(format!(
            "{} exists: name another place for the new key with --wallet-file",
            path.display()
        )));
    }
    let client = Client::find(args)?;
    let network = client.network().await?;
    let count = client.recoverable(&account).await?;
    let recovery = keystore::key_from_phrase(&secrets::words("The account's 24 recovery words")?)?;
    let passphrase = secrets::choose(&path)?;
    let (words, next) = (keystore::new_phrase(), keystore::new_phrase());
    let (key, next_key): (Keypair, Keypair) = (keystore::key_from_phrase(&words)?, keystore::key_from_phrase(&next)?);
    let body = Body::Recover {
        account,
        count,
        key: *key.public(),
        agreed: key.sign(&recovery_agreement(&network, &account, count)),
        next: recovery_commitment(&network, next_key.public()),
    };
    // Keys and words are kept before the account depends on them.
    keystore::create(&path, keystore::Kind::Wallet, &key, passphrase.as_ref().map(|it| it.as_str()))?;
    let (file, locked) = (path.display(), passphrase.is_some());
    let (name, purpose) = NEW_KEY;
    show_secret(&json!({ name: *words, "file": path, "locked": locked }), |out| {
        writeln!(out, "{purpose}\n\n{}\n", *words)
    })?;
    show_words(RECOVERY, &next)?;
    let submitted = client.submit(&Transaction::sign(&network, &recovery, 0, now_ms(), body)).await;
    // A key that signs for nothing, if the node does not lie: then it is the account's only one.
    let id: Hash = submitted.map_err(|e| match e {
        NodeError::Refused { code, message } => {
            let kept = set_aside(&path).unwrap_or_else(|_| path.clone());
            let kept = kept.display();
            let keep =
                format!("keep {kept} and the words above until another node, too, shows the account with its old key");
            NodeError::Refused { code, message: format!("{message}; {keep}") }
        }
        other => other,
    })?;
    let done = format!("{account} has a new key, in {file}; its address stays\nlocked      {}", lock(locked));
    Included::wait(client, &id).await?.say(&done)
}

/// Lets the node in the data folder work for another wallet.
pub async fn bind(args: BindArgs) -> Result<(), NodeError> {
    let key = secrets::load(&client::data_dir(&args.client)?.join(NODE_KEY), keystore::Kind::Node)?;
    let consent = crate::config::parse_consent(&args.consent)?;
    let client = Client::find(&args.client)?;
    let network = client.network().await?;
    let body = Body::BindNode { wallet: args.wallet, consent };
    let transaction = Transaction::sign(&network, &key, 0, now_ms(), body);
    if transaction.verify(&network).is_err() {
        return Err(NodeError::Usage(format!(
            "--consent is for another wallet, node or network: `ailo-node wallet consent {}` prints the right one where the key of {} lies",
            key.public(),
            args.wallet
        )));
    }
    let id = client.submit(&transaction).await?;
    let done = format!("node {} works for {}, who is paid for it from now on", key.public().short(), args.wallet);
    Included::wait(client, &id).await?.say(&done)
}

/// Lets a jailed node back in.
pub async fn unjail(NodeArgs { node, client }: NodeArgs) -> Result<(), NodeError> {
    let node = self::node(node, &client)?;
    send(&client, Body::Unjail { node }, true, &format!("node {} is back", node.short())).await
}

/// Calls a contribution forged.
pub async fn challenge(ChallengeArgs { round, node, client }: ChallengeArgs) -> Result<(), NodeError> {
    send(&client, Body::Challenge { round, node }, true, "challenged: the validators replay it now").await
}

/// What a node kept that found a liar.
pub fn read_charge(path: &Path) -> Result<Charge, NodeError> {
    let named = path.display();
    let text = fs::read(path).map_err(|e| NodeError::file("read", path, e))?;
    serde_json::from_slice(&text).map_err(|e| {
        NodeError::Usage(format!(
            "{named} is no charge ({e}): name a file of `charges` in the data folder of a node that found a liar"
        ))
    })
}

/// Shows the ledger what convicts a stage.
pub async fn accuse(AccuseArgs { charge, client }: AccuseArgs) -> Result<(), NodeError> {
    let charge = read_charge(&charge)?;
    let node = charge.signed.node.short();
    send(
        &client,
        Body::Accuse(charge),
        true,
        &format!("node {node} is accused: validators that have the model read the text now"),
    )
    .await
}

/// Proposes changes of parameters.
pub async fn propose(ProposeArgs { changes, why, client: args }: ProposeArgs) -> Result<(), NodeError> {
    let included = include(&args, Body::Propose { changes: changes.clone(), why }).await?;
    let number = |event: &Event| match event {
        Event::Proposed { proposal, changes: proposed, .. } if *proposed == changes => Some(*proposal),
        _ => None,
    };
    let done = match included.event(number).await {
        Some(number) => format!("proposal {number}: `ailo-node vote {number} yes` votes for it"),
        None => "proposed: `ailo-node proposals` shows the votes".into(),
    };
    included.say(&done)
}

/// Votes on a proposal.
pub async fn vote(VoteArgs { proposal, vote, client: args }: VoteArgs) -> Result<(), NodeError> {
    let included = include(&args, Body::Vote { proposal, approve: vote == "yes" }).await?;
    let weight = |event: &Event| match event {
        Event::Voted { proposal: number, weight, .. } if *number == proposal => Some(*weight),
        _ => None,
    };
    let weight = included.event(weight).await.map(|weight| format!(" with {weight} ALC of stake"));
    included.say(&format!("voted {vote} on proposal {proposal}{}", weight.unwrap_or_default()))
}

/// A span of ledger age for a person.
fn span(from_age: u64, to_age: u64) -> String {
    format!("{} s", to_age.saturating_sub(from_age).div_ceil(1000))
}

/// Shows what inference costs.
pub async fn market(args: ClientArgs) -> Result<(), NodeError> {
    let reply: At<MarketView> = Client::find(&args)?.call("ailo_market", &[]).await?;
    let view = &reply.value;
    show(&reply, |out| {
        writeln!(
            out,
            "price  {} ALC for {} tokens through all layers, in epoch {}",
            view.price, view.unit_tokens, view.epoch
        )?;
        writeln!(out, "paid   {} ALC in this epoch, to {} nodes with a seat among others", view.paid, view.servers)
    })
}

/// Lists proposals.
pub async fn proposals(args: ClientArgs) -> Result<(), NodeError> {
    let reply: At<ProposalsView> = Client::find(&args)?.call("ailo_proposals", &[]).await?;
    show(&reply, |out| describe_proposals(out, &reply))
}

fn describe_proposals(out: &mut String, reply: &At<ProposalsView>) -> fmt::Result {
    let view = &reply.value;
    for ProposalView { number, poll } in &view.proposals {
        writeln!(out, "proposal {number}: {}", printable(&poll.changes.join(", ")))?;
        if !poll.why.is_empty() {
            writeln!(out, "  why      {}", printable(&poll.why))?;
        }
        match poll.activates {
            Some(height) => writeln!(out, "  approved, in force from height {height} (it is {} now)", reply.height)?,
            None => {
                let (quorum, ends) = (view.quorum_ppm * 100 / PPM, span(view.age_ms, poll.ends_age));
                writeln!(out, "  votes    {} ALC for, {} against", poll.yes, poll.no)?;
                writeln!(out, "  counted  in {ends}, if {quorum} % of {} ALC have voted", view.staked)?;
            }
        }
    }
    if view.proposals.is_empty() {
        writeln!(out, "nothing is voted on")?;
    }
    view.changed.iter().try_for_each(|change| writeln!(out, "changed  {}", printable(change)))
}

/// Lists validators, or shows one node's history.
pub async fn validators(ValidatorsArgs { node, limit, client: args }: ValidatorsArgs) -> Result<(), NodeError> {
    let client = Client::find(&args)?;
    if let Some(node) = node {
        let history = client.history(&Subject::Node(node), limit).await?;
        return show(&history, |out| write_history(out, None, &history.value));
    }
    let reply: At<ValidatorsView> = client.call("ailo_validators", &[]).await?;
    show(&reply, |out| describe_validators(out, &reply.value))
}

fn describe_validators(out: &mut String, view: &ValidatorsView) -> fmt::Result {
    for validator in &view.validators {
        let wallet = validator.wallet.map(|wallet| wallet.to_string()).unwrap_or_default();
        let jailed = match validator.jailed_until {
            Some(until) if until > view.age_ms => format!(", jailed for {} more at least", span(view.age_ms, until)),
            Some(_) => ", jailed until its wallet unjails it".into(),
            None => String::new(),
        };
        let lots = validator.lots.map_or(", no chain of lots yet".into(), |left| format!(", {left} lots left"));
        writeln!(
            out,
            "{}  power {} of {}, stake {} ALC{lots}{jailed}  {wallet}",
            validator.node, validator.power, view.total_power, validator.stake
        )?;
    }
    if view.founders {
        writeln!(out, "the founders validate until enough others have staked")?;
    }
    writeln!(out, "one more validator needs {} ALC of stake", view.stake_to_validate)
}
