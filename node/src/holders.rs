//! The commands of those who hold coins and stake: disputes and reports, recovery, user names, votes, challenges.

use crate::{
    cli::*,
    client::{self, Client},
    commands::{print_json, send},
    error::NodeError,
    genesis::now_ms,
    rpc::types::*,
};
use ailo_ledger::{
    Body, Transaction,
    transaction::{Consent, agree_to_recovery, recovery_commitment},
};
use ailo_protocol::{Address, Hash, Keypair, NodeId, canonical, keystore};

/// Runs a command of `wallet` that is about an account's rights.
pub async fn wallet(command: WalletCommand) -> Result<(), NodeError> {
    match command {
        WalletCommand::Dispute { transfer, client } => {
            send(&client, Body::Dispute { transfer }, true, "taken back; the fee of the transfer is not given back")
                .await
        }
        WalletCommand::Report(args) => {
            let node = node(args.node, &args.client)?;
            send(&args.client, Body::Report { transfer: args.transfer, node }, true, "reported").await
        }
        WalletCommand::WithdrawReport(args) => {
            let node = node(args.node, &args.client)?;
            send(&args.client, Body::WithdrawReport { transfer: args.transfer, node }, true, "report withdrawn").await
        }
        WalletCommand::Username { name, client } => {
            let done = name.map_or("user name given up".into(), |name| format!("the wallet's name is {name}"));
            send(&client, Body::RegisterUsername { name }, true, &done).await
        }
        WalletCommand::Consent { node, client } => consent(&node, &client).await,
        WalletCommand::ProtectWithRecovery(client) => protect(&client).await,
        WalletCommand::Recover { account, client } => recover(account, &client).await,
        _ => unreachable!("the other wallet commands are handled by their own file"),
    }
}

/// The node that is named, or the one in the data folder.
pub fn node(named: Option<NodeId>, args: &ClientArgs) -> Result<NodeId, NodeError> {
    match named {
        Some(node) => Ok(node),
        None => Ok(*keystore::load(&client::data_dir(args)?.join("node.json"), keystore::Kind::Node)?.public()),
    }
}

async fn consent(node: &NodeId, args: &ClientArgs) -> Result<(), NodeError> {
    let key = client::wallet_key(args)?;
    let client = Client::find(args)?;
    let network = client.status().await?.value.network;
    let wallet = client.account(&Address::from(key.public())).await?.value.address;
    let consent = Consent::sign(&network, node, &wallet, &key);
    println!("{}", hex::encode(canonical::encode(&consent)));
    Ok(())
}

async fn protect(args: &ClientArgs) -> Result<(), NodeError> {
    let network = Client::find(args)?.status().await?.value.network;
    let phrase = keystore::new_phrase().to_string();
    let commitment = recovery_commitment(&network, keystore::key_from_phrase(&phrase)?.public());
    send(args, Body::SetRecovery { commitment }, true, "the account has a recovery key").await?;
    show_recovery(&phrase);
    Ok(())
}

fn show_recovery(phrase: &str) {
    println!(
        "\nThese 24 words give the account another key if its own is lost or stolen, once (`ailo-node wallet recover`). Keep them apart from the wallet:\n\n{phrase}"
    );
}

async fn recover(account: Address, args: &ClientArgs) -> Result<(), NodeError> {
    let path = client::wallet_path(args)?;
    if path.exists() {
        return Err(NodeError::Usage(format!(
            "{} exists: name another place for the new key with --wallet-file",
            path.display()
        )));
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| NodeError::io("read the 24 recovery words", e))?;
    let recovery = keystore::key_from_phrase(line.trim())?;
    let client = Client::find(args)?;
    let network = client.status().await?.value.network;
    let count = client.account(&account).await?.value.recoveries;
    let (words, next) = (keystore::new_phrase().to_string(), keystore::new_phrase().to_string());
    let key = keystore::key_from_phrase(&words)?;
    // The new key is on disk before the account depends on it.
    keystore::create(&path, keystore::Kind::Wallet, &key)?;
    let next_key: Keypair = keystore::key_from_phrase(&next)?;
    let body = Body::Recover {
        account,
        count,
        key: *key.public(),
        agreed: agree_to_recovery(&network, &account, count, &key),
        next: recovery_commitment(&network, next_key.public()),
    };
    let id: Hash = client.submit(&Transaction::sign(&network, &recovery, 0, now_ms(), body)).await?;
    crate::commands::follow(&client, &id, args, &format!("{account} has a new key, in {}", path.display())).await?;
    println!("\nThese 24 words restore the new key. Keep them off-line:\n\n{words}");
    show_recovery(&next);
    Ok(())
}

/// Lets the node in the data folder work for another wallet.
pub async fn bind(args: BindArgs) -> Result<(), NodeError> {
    let key = keystore::load(&client::data_dir(&args.client)?.join("node.json"), keystore::Kind::Node)?;
    let consent = crate::config::parse_consent(&args.consent)?;
    let client = Client::find(&args.client)?;
    let network = client.status().await?.value.network;
    let body = Body::BindNode { wallet: args.wallet, consent };
    let id = client.submit(&Transaction::sign(&network, &key, 0, now_ms(), body)).await?;
    crate::commands::follow(&client, &id, &args.client, &format!("the node works for {}", args.wallet)).await
}

/// Lists proposals.
pub async fn proposals(args: ClientArgs) -> Result<(), NodeError> {
    let reply: At<ProposalsView> = Client::find(&args)?.call("ailo_proposals", &[]).await?;
    if args.json {
        print_json(&reply);
        return Ok(());
    }
    let view = reply.value;
    for ProposalView { number, poll } in &view.proposals {
        println!("proposal {number}: {}", poll.changes.join(", "));
        if !poll.why.is_empty() {
            println!("  why      {}", poll.why);
        }
        match poll.activates {
            Some(height) => println!("  approved, in force from height {height}"),
            None => println!("  votes    {} ALC for, {} against, of {} staked", poll.yes, poll.no, view.staked),
        }
    }
    if view.proposals.is_empty() {
        println!("nothing is voted on");
    }
    view.changed.iter().for_each(|change| println!("changed  {change}"));
    Ok(())
}

/// Lists validators.
pub async fn validators(args: ClientArgs) -> Result<(), NodeError> {
    let reply: At<ValidatorsView> = Client::find(&args)?.call("ailo_validators", &[]).await?;
    if args.json {
        print_json(&reply);
        return Ok(());
    }
    let view = reply.value;
    for validator in &view.validators {
        let wallet = validator.wallet.map(|wallet| wallet.to_string()).unwrap_or_default();
        let jailed = if validator.jailed_until.is_some() { ", jailed" } else { "" };
        println!(
            "{}  power {} of {}, stake {} ALC{jailed}  {wallet}",
            validator.node, validator.power, view.total_power, validator.stake
        );
    }
    if view.founders {
        println!("the founders validate until enough others have staked");
    }
    println!("one more validator needs {} ALC of stake", view.stake_to_validate);
    Ok(())
}
