//! The commands beside `run`, `genesis` and `localnet`: wallet, staking, status, generation.

use crate::{
    cli::*,
    client::{self, Client, json},
    config::Settings,
    datadir::DataDir,
    error::NodeError,
    genesis, holders, localnet,
    rpc::types::*,
    service, simulate, verify,
};
use ailo_ledger::{Body, Transaction, state::Event};
use ailo_protocol::{Address, Hash, Keypair, keystore};
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Runs the command that was given.
pub async fn dispatch(cli: Cli) -> Result<(), NodeError> {
    start_log(&cli.log)?;
    match cli.command {
        Command::Run(args) => service::run(Settings::resolve(&args)?, args.stop_on_eof).await,
        Command::Genesis(args) => genesis::command(&args),
        Command::Keys(args) => keys(&args),
        Command::Wallet(command) => wallet(command).await,
        Command::Stake(args) => stake(args, true).await,
        Command::Unstake(args) => stake(args, false).await,
        Command::Unjail(args) => {
            let node = holders::node(args.node, &args.client)?;
            send(&args.client, Body::Unjail { node }, true, &format!("node {} is back", node.short())).await
        }
        Command::Bind(args) => holders::bind(args).await,
        Command::Challenge(ChallengeArgs { round, node, client }) => {
            send(&client, Body::Challenge { round, node }, true, "challenged: the validators replay it now").await
        }
        Command::Propose(ProposeArgs { changes, why, client }) => {
            send(&client, Body::Propose { changes, why }, true, "proposed: `ailo-node proposals` shows the votes").await
        }
        Command::Vote(VoteArgs { proposal, vote, client }) => {
            send(&client, Body::Vote { proposal, approve: vote == "yes" }, true, "voted").await
        }
        Command::Proposals(args) => holders::proposals(args).await,
        Command::Validators(args) => holders::validators(args).await,
        Command::Status(args) => status(args).await,
        Command::Verify(command) => verify::command(command).await,
        Command::Generate(args) => generate(args).await,
        Command::Localnet(args) => localnet::run(*args).await,
        Command::Simulate(SimulateCommand::Ledger(args)) => simulate::ledger(&args),
        Command::Simulate(SimulateCommand::Plants) => {
            simulate::plants();
            Ok(())
        }
    }
}

fn start_log(filter: &str) -> Result<(), NodeError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|e| {
        NodeError::Usage(format!("--log '{filter}' is not a filter (like info or ailo_node=debug,warn): {e}"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// Prints a reply as JSON.
pub fn print_json<T: serde::Serialize>(value: &T) {
    println!("{}", json(value));
}

fn keys(args: &KeysArgs) -> Result<(), NodeError> {
    let dir = DataDir::open(&args.data_dir)?;
    let node = dir.key(keystore::Kind::Node)?;
    let wallet = Address::from(dir.key(keystore::Kind::Wallet)?.public());
    println!("node     {}", node.public());
    println!("wallet   {wallet}");
    println!("founder  {},{wallet},validator", node.public());
    Ok(())
}

async fn wallet(command: WalletCommand) -> Result<(), NodeError> {
    match command {
        WalletCommand::New { restore, client } => wallet_new(restore, &client),
        WalletCommand::Show(args) => wallet_show(&args).await,
        WalletCommand::Address(args) => {
            println!("{}", Address::from(client::wallet_key(&args)?.public()));
            Ok(())
        }
        WalletCommand::Send { to, amount, memo, no_wait, client } => {
            let body = Body::Transfer { to, amount, memo };
            send(&client, body, !no_wait, &format!("sent {amount} ALC to {to}")).await
        }
        WalletCommand::History { limit, client } => wallet_history(&client, limit).await,
        other => holders::wallet(other).await,
    }
}

fn wallet_new(restore: bool, args: &ClientArgs) -> Result<(), NodeError> {
    let path = client::wallet_path(args)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| NodeError::file("create the folder", parent, e))?;
    }
    let phrase = if restore {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|e| NodeError::io("read the 24 words", e))?;
        line.trim().to_string()
    } else {
        keystore::new_phrase().to_string()
    };
    let key = keystore::key_from_phrase(&phrase)?;
    keystore::create(&path, keystore::Kind::Wallet, &key)?;
    println!("address  {}", Address::from(key.public()));
    println!("file     {}", path.display());
    if !restore {
        println!(
            "\nThese 24 words restore the wallet. Write them down, keep them off-line, show them to nobody:\n\n{phrase}"
        );
    }
    Ok(())
}

async fn wallet_show(args: &ClientArgs) -> Result<(), NodeError> {
    let address = Address::from(client::wallet_key(args)?.public());
    let account = Client::find(args)?.account(&address).await?;
    if args.json {
        print_json(&account);
        return Ok(());
    }
    let at = account.height;
    let account = account.value;
    println!("address    {}", account.address);
    println!("spendable  {} ALC", account.free);
    println!("pending    {} ALC", account.pending);
    println!("staked     {} ALC", account.staked);
    println!("unbonding  {} ALC", account.unbonding);
    if account.owes.0 > 0 {
        println!("owes       {} ALC for reversed transfers: whatever comes in pays it first", account.owes);
    }
    if let Some(name) = account.name {
        println!("name       {name}");
    }
    println!(
        "recovery   {}",
        if account.recoverable {
            "a recovery key is set"
        } else {
            "none: `ailo-node wallet protect-with-recovery` sets one"
        }
    );
    println!("at height  {at}");
    Ok(())
}

async fn wallet_history(args: &ClientArgs, limit: u32) -> Result<(), NodeError> {
    let address = Address::from(client::wallet_key(args)?.public());
    let params = [("address", json(&address)), ("limit", json(&limit))];
    let history: At<HistoryView> = Client::find(args)?.call("ailo_history", &params).await?;
    if args.json {
        print_json(&history);
        return Ok(());
    }
    for entry in &history.value.entries {
        println!("{:>8}  {}", entry.height, describe(&address, &entry.event));
    }
    if history.value.entries.is_empty() {
        println!("nothing yet");
    }
    Ok(())
}

/// An entry of a wallet's history in one line.
fn describe(own: &Address, event: &Event) -> String {
    let way = |from: &Address, to: &Address| if from == own { format!("to {to}") } else { format!("from {from}") };
    match event {
        Event::TransferPending { from, to, amount, .. } => format!("pending    {amount} ALC {}", way(from, to)),
        Event::TransferConfirmed { from, to, amount, .. } => format!("confirmed  {amount} ALC {}", way(from, to)),
        Event::TransferRefunded { from, to, amount, .. } => format!("refunded   {amount} ALC {}", way(from, to)),
        Event::TransferFinal { from, to, .. } => format!("final      {}", way(from, to)),
        Event::TransferReported { reports, seats, .. } => format!("reported   by {reports} of {seats} seats"),
        Event::TransferReversed { from, to, returned, owed, .. } => {
            format!("reversed   {returned} ALC returned, {owed} owed, {}", way(from, to))
        }
        Event::DebtPaid { debtor, creditor, amount, .. } => {
            format!("debt       {amount} ALC {}", way(debtor, creditor))
        }
        Event::Slashed { node, amount, bounty, .. } => {
            format!("slashed    {amount} ALC behind node {}, bounty {bounty}", node.short())
        }
        Event::Staked { node, amount, .. } => format!("staked     {amount} ALC behind node {}", node.short()),
        Event::Unstaked { node, amount, .. } => format!("unbonding  {amount} ALC from node {}", node.short()),
        Event::Unbonded { node, amount, .. } => format!("unbonded   {amount} ALC from node {}", node.short()),
        Event::Reward { node, amount, kind, .. } => {
            format!("reward     {amount} ALC for {kind:?} of node {}", node.short())
        }
        other => format!("{other:?}"),
    }
}

async fn stake(args: StakeArgs, bond: bool) -> Result<(), NodeError> {
    let node = holders::node(args.node, &args.client)?;
    let amount = args.amount;
    let (body, done) = if bond {
        (Body::Stake { node, amount }, format!("staked {amount} ALC behind node {}", node.short()))
    } else {
        (Body::Unstake { node, amount }, format!("unbonding {amount} ALC from node {}", node.short()))
    };
    send(&args.client, body, true, &done).await
}

/// Signs and submits; with `wait`, follows the transaction into a block.
pub async fn send(args: &ClientArgs, body: Body, wait: bool, done: &str) -> Result<(), NodeError> {
    let key = client::wallet_key(args)?;
    let client = Client::find(args)?;
    let transaction = sign(&client, &key, body).await?;
    let id = client.submit(&transaction).await?;
    if !wait {
        if args.json {
            print_json(&id)
        } else {
            println!("submitted {id}")
        }
        return Ok(());
    }
    follow(&client, &id, args, done).await
}

/// Waits until a transaction is in a block, and says so.
pub async fn follow(client: &Client, id: &Hash, args: &ClientArgs, done: &str) -> Result<(), NodeError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = client.transaction(id).await?;
        if seen.value.block_height.is_some() {
            if args.json {
                print_json(&seen);
            } else {
                println!(
                    "{done}\ntransaction {id}, {}, in block {}",
                    seen.value.status,
                    seen.value.block_height.unwrap_or_default()
                );
            }
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(NodeError::Rpc(format!(
                "transaction {id} is in no block after 60 s: it may still enter one, and `ailo-node wallet history` will show it then"
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Signs `body` as the wallet's next transaction.
pub async fn sign(client: &Client, key: &Keypair, body: Body) -> Result<Transaction, NodeError> {
    let status = client.status().await?.value;
    let nonce = client.account(&Address::from(key.public())).await?.value.nonce;
    Ok(Transaction::sign(&status.network, key, nonce, genesis::now_ms(), body))
}

async fn status(args: ClientArgs) -> Result<(), NodeError> {
    let status = Client::find(&args)?.status().await?;
    if args.json {
        print_json(&status);
        return Ok(());
    }
    let (height, s) = (status.height, status.value);
    let loss = |l: Option<f64>| l.map_or("none yet".into(), |l| format!("{l:.4} nats/token"));
    println!("network     {} ({})", s.network_name, s.network.short());
    println!(
        "node        {}{}{}",
        s.node,
        if s.validating { ", validating" } else { "" },
        if s.training { ", training" } else { "" }
    );
    println!("block       {height} {}, epoch {}", s.block.short(), s.epoch);
    println!(
        "peers       {}, {} validators, {} seats, {} confirmations",
        s.peers, s.validators, s.seats, s.confirmations
    );
    println!(
        "round       {} {}: {} participants, tolerates {}, {} committed, step {}/{} at {:.0} tokens/s, loss {}",
        s.round.number,
        s.round.phase,
        s.round.participants,
        s.round.tolerates,
        s.round.committed,
        s.round.step,
        s.round.steps,
        s.round.tokens_per_s,
        loss(s.round.loss)
    );
    println!(
        "model       {} after {} rounds, {} parameters, held-out loss {}",
        s.model.root.short(),
        s.model.rounds,
        s.model.parameters,
        loss(s.model.held_out_loss)
    );
    println!("wallet      {}", s.wallet);
    println!(
        "balance     {} ALC, pending {}, staked {}, unbonding {}",
        s.account.free, s.account.pending, s.account.staked, s.account.unbonding
    );
    println!(
        "supply      {} ALC minted, {} burned, law {}",
        s.supply.minted,
        s.supply.burned,
        if s.supply.law_holds { "holds" } else { "BROKEN" }
    );
    for note in &s.notes {
        println!("note        {note}");
    }
    Ok(())
}

async fn generate(args: GenerateArgs) -> Result<(), NodeError> {
    let request = GenerateRequest {
        prompt: args.prompt.clone(),
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        seed: args.seed,
    };
    let reply: At<Generated> =
        Client::find(&args.client)?.call("ailo_generate", &[("request", json(&request))]).await?;
    if args.client.json {
        print_json(&reply);
        return Ok(());
    }
    let made = reply.value;
    println!("{}{}", args.prompt, made.text);
    let _ = std::io::stdout().flush(); // nothing is lost when nobody reads
    eprintln!(
        "{} tokens at {:.0} tokens/s, seed {}, model {}",
        made.tokens,
        made.tokens_per_s,
        made.seed,
        made.model.short()
    );
    Ok(())
}
