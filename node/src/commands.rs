//! The commands beside `run`, `genesis` and `localnet`: wallet, staking, status, generation.

use crate::{
    aggregate,
    cli::*,
    client::{self, Client, json},
    config::Settings,
    datadir::DataDir,
    error::NodeError,
    genesis, holders, inference, localnet, logs, operator, replay, round,
    rpc::types::*,
    service, simulate, verify,
};
use ailo_ledger::{Body, Transaction, state::Event, store::Subject};
use ailo_protocol::{Address, Hash, Keypair, keystore};
use ailo_training::{class::determinism_class, device, set_threads};
use std::time::{Duration, Instant};

/// Runs the command that was given.
pub async fn dispatch(cli: Cli) -> Result<(), NodeError> {
    logs::start(&cli.log, cli.log_format)?;
    match cli.command {
        Command::Run(args) => service::run(Settings::resolve(&args)?, args.stop_on_eof).await,
        Command::Genesis(args) => genesis::command(&args),
        Command::Keys(args) => keys(&args),
        Command::ApiKeys(command) => inference::api::keys::command(command),
        Command::Wallet(command) => wallet(command).await,
        Command::Stake(args) => stake(args, true).await,
        Command::Unstake(args) => stake(args, false).await,
        Command::Unjail(args) => holders::unjail(args).await,
        Command::Bind(args) => holders::bind(args).await,
        Command::Challenge(args) => holders::challenge(args).await,
        Command::Accuse(args) => holders::accuse(args).await,
        Command::Propose(args) => holders::propose(args).await,
        Command::Vote(args) => holders::vote(args).await,
        Command::Proposals(args) => holders::proposals(args).await,
        Command::Market(args) => holders::market(args).await,
        Command::Validators(args) => holders::validators(args).await,
        Command::Round(args) if args.dry_run => replay::dry_run(&args).await,
        Command::Round(args) => round::command(args).await,
        Command::Class(args) => class(&args),
        Command::Replay(args) => replay::command(&args),
        Command::Status(args) => status(args).await,
        Command::Training(args) => operator::training(args).await,
        Command::Power(args) => operator::power(args).await,
        Command::Logs(args) => logs::command::command(args).await,
        Command::Verify(command) => verify::command(command).await,
        Command::Chat(args) => inference::chat::command(args).await,
        Command::Serve(args) => inference::serve::command(args).await,
        Command::Generate(args) => inference::chat::generate(args).await,
        Command::Aggregate(args) => aggregate::command(&args),
        Command::Localnet(args) => localnet::run(*args).await,
        Command::Simulate(SimulateCommand::Ledger(args)) => simulate::ledger::command(&args),
        Command::Simulate(SimulateCommand::Training(args)) => simulate::training::command(&args),
        Command::Simulate(SimulateCommand::Plants) => {
            simulate::ledger::plants();
            Ok(())
        }
    }
}

/// Prints a reply as JSON.
pub fn print_json<T: serde::Serialize>(value: &T) {
    println!("{}", json(value));
}

fn class(args: &ClassArgs) -> Result<(), NodeError> {
    set_threads(1);
    println!("{}", determinism_class(device(!args.cpu))?);
    Ok(())
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
            let (to, name) = match to {
                Recipient::Address(address) => (address, String::new()),
                Recipient::Name(name) => {
                    (Client::find(&client)?.owner(&name).await?.value.address, format!("@{name}, "))
                }
            };
            let body = Body::Transfer { to, amount, memo };
            send(&client, body, !no_wait, &format!("sent {amount} ALC to {name}{to}")).await
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
    let deposit = &account.deposit;
    let leaving = match deposit.leaving.0 {
        0 => String::new(),
        _ => format!(", {} of it free in {} s", deposit.leaving, deposit.free_in_ms / 1000),
    };
    println!("deposited  {} ALC for inference{leaving}", deposit.amount);
    if deposit.short {
        println!("           short of what nodes were promised: they serve again after the next `wallet deposit`");
    }
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
    let client = Client::find(args)?;
    // Since a recovery the key signs for an account that is not named after it.
    let address = client.account(&Address::from(client::wallet_key(args)?.public())).await?.value.address;
    let history = client.history(&Subject::Wallet(address), limit).await?;
    if args.json {
        print_json(&history);
        return Ok(());
    }
    print_history(Some(&address), &history.value);
    Ok(())
}

/// A page of history, a line each; `own` is the wallet whose it is, if it is one's.
pub(crate) fn print_history(own: Option<&Address>, history: &HistoryView) {
    for entry in &history.entries {
        println!("{:>8}  {}", entry.height, describe(own, &entry.event));
    }
    if history.entries.is_empty() {
        println!("nothing yet");
    }
}

/// An entry of a history in one line.
pub(crate) fn describe(own: Option<&Address>, event: &Event) -> String {
    let way =
        |from: &Address, to: &Address| if Some(from) == own { format!("to {to}") } else { format!("from {from}") };
    let of = |id: &Hash| format!("transfer {}", id.short());
    match event {
        Event::TransferPending { from, to, amount, .. } => format!("pending    {amount} ALC {}", way(from, to)),
        Event::TransferConfirmed { from, to, amount, .. } => format!("confirmed  {amount} ALC {}", way(from, to)),
        Event::TransferRefunded { from, to, amount, .. } => format!("refunded   {amount} ALC {}", way(from, to)),
        Event::TransferFinal { from, to, .. } => format!("final      {}", way(from, to)),
        Event::TransferReported { id, reports, seats, .. } => {
            format!("reported   {}, now by {reports} of {seats} seats", of(id))
        }
        Event::ReportWithdrawn { id, .. } => format!("withdrawn  the report of {}", of(id)),
        Event::ReportForfeited { id, bond, .. } => format!("forfeited  {bond} ALC, for too few reports of {}", of(id)),
        Event::TransferDisputed { id, reports, .. } => format!("disputed   {} by {reports} seats", of(id)),
        Event::TransferReversed { from, to, returned, owed, .. } => {
            format!("reversed   {returned} ALC returned, {owed} owed, {}", way(from, to))
        }
        Event::DebtPaid { debtor, creditor, amount, .. } => {
            format!("debt       {amount} ALC {}", way(debtor, creditor))
        }
        Event::Slashed { node, amount, bounty, .. } => {
            format!("slashed    {amount} ALC behind node {}, bounty {bounty}", node.short())
        }
        Event::Unjailed { node, .. } => format!("unjailed   node {}", node.short()),
        Event::Challenged { round, node, .. } => {
            format!("challenged node {}'s contribution to round {round}", node.short())
        }
        Event::Accused { node, .. } => format!("accused    node {} of signing what it did not compute", node.short()),
        Event::Staked { node, amount, .. } => format!("staked     {amount} ALC behind node {}", node.short()),
        Event::Unstaked { node, amount, .. } => format!("unbonding  {amount} ALC from node {}", node.short()),
        Event::Unbonded { node, amount, .. } => format!("unbonded   {amount} ALC from node {}", node.short()),
        Event::Deposited { amount, .. } => format!("deposited  {amount} ALC for inference"),
        Event::DepositLeaving { amount, .. } => format!("leaving    {amount} ALC of the deposit"),
        Event::DepositReturned { amount, .. } => format!("returned   {amount} ALC of the deposit"),
        Event::ReceiptPaid { payer, node, units, amount, burned, minted, .. } => match own == Some(payer) {
            true => format!("inference  {amount} ALC to node {} for {units} units", node.short()),
            false => format!("inference  {amount} ALC for {units} units, {burned} burned, {minted} on top"),
        },
        Event::NodeRegistered { node, .. } => format!("registered node {}", node.short()),
        Event::LotsCommitted { epoch, .. } => format!("lots       its next chain counts from epoch {epoch} on"),
        Event::NodeBound { node, .. } => format!("bound      node {} to this wallet", node.short()),
        Event::Attested { height, .. } => format!("attested   the transfers of block {height}"),
        Event::Contributed { round, .. } => format!("trained    for round {round}"),
        Event::RoundClosed { round, .. } => format!("accepted   its work in round {round}"),
        Event::ChallengeEnded { round, forged, .. } => {
            format!("judged     its work in round {round}: {}", if *forged { "forged" } else { "honest" })
        }
        Event::AccusationEnded { guilty, .. } => {
            format!("judged     what it signed of a text: {}", if *guilty { "wrong" } else { "not found wrong" })
        }
        Event::ReplayDrawn { round, node, replayer } => {
            format!("drawn      node {}'s work in round {round}, for node {} to replay", node.short(), replayer.short())
        }
        Event::Replayed { round, node, replayer, same } => {
            let found = if *same { "the same" } else { "something else" };
            format!("replayed   node {}'s work in round {round}, by node {}: {found}", node.short(), replayer.short())
        }
        Event::ReplayDecided { round, outcome, .. } => format!("replay     of its work in round {round}: {outcome:?}"),
        Event::NodeLapsed { node, .. } => format!("lapsed     node {}", node.short()),
        Event::RecoverySet { .. } => "protected  by a recovery key".into(),
        Event::Recovered { key, .. } => format!("recovered  by the key {}", key.short()),
        Event::UsernameChanged { name: Some(name), .. } => format!("name       @{name}"),
        Event::UsernameChanged { name: None, .. } => "name       given up".into(),
        Event::Proposed { proposal, changes, .. } => format!("proposed   {proposal}: {}", changes.join(", ")),
        Event::Voted { proposal, approve, weight, .. } => {
            format!("voted      {} on {proposal} with {weight} ALC", if *approve { "yes" } else { "no" })
        }
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

/// Signs and submits; with `wait`, follows the transaction into a block and says that it is `done`.
pub async fn send(args: &ClientArgs, body: Body, wait: bool, done: &str) -> Result<(), NodeError> {
    let (client, id) = submit(args, body).await?;
    match wait {
        true => Included::wait(client, &id).await?.say(args, done),
        false if args.json => print_json(&id),
        false => println!("submitted {id}"),
    }
    Ok(())
}

/// Signs as the wallet, and submits.
pub async fn submit(args: &ClientArgs, body: Body) -> Result<(Client, Hash), NodeError> {
    let key = client::wallet_key(args)?;
    let client = Client::find(args)?;
    let id = client.submit(&sign(&client, &key, body).await?).await?;
    Ok((client, id))
}

/// A transaction in a block.
pub struct Included {
    /// The node that knows it.
    pub client: Client,
    seen: At<TransactionView>,
}

impl Included {
    /// Waits until the transaction is in a block.
    pub async fn wait(client: Client, id: &Hash) -> Result<Included, NodeError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let seen = client.transaction(id).await?;
            if seen.value.block_height.is_some() {
                return Ok(Included { client, seen });
            }
            if Instant::now() > deadline {
                return Err(NodeError::Rpc(format!(
                    "transaction {id} is in no block after 60 s: it may still enter one, and `ailo-node wallet history` will show it then"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What `pick` finds among the events of its block that belong to the signer's account.
    pub async fn event<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> Result<Option<T>, NodeError> {
        let account = self.client.account(&Address::from(&self.seen.value.transaction.unsigned.signer)).await?;
        let history = self.client.history(&Subject::Wallet(account.value.address), 100).await?;
        let here = history.value.entries.iter().filter(|entry| Some(entry.height) == self.seen.value.block_height);
        Ok(here.map(|entry| &entry.event).find_map(pick))
    }

    /// Says what is done now, and where it stands.
    pub fn say(&self, args: &ClientArgs, done: &str) {
        if args.json {
            return print_json(&self.seen);
        }
        let TransactionView { id, status, block_height, .. } = &self.seen.value;
        println!("{done}\ntransaction {id}, {status}, in block {}", block_height.unwrap_or_default());
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
    println!("checkpoint  {height}:{}", s.block);
    println!(
        "peers       {}, {} validators, {} seats, {} confirmations",
        s.peers, s.validators, s.seats, s.confirmations
    );
    println!("reachable   {}", s.reachability.note);
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
    for one in &s.serving {
        let who = if one.node == s.node { "this node".into() } else { one.node.short() };
        println!(
            "serves      {who}: layers {}..{} of {} of {} in {}, {:.1} tokens/s, room for texts {} of {} MiB",
            one.first,
            one.end,
            one.total,
            one.name,
            one.dtype,
            one.tokens_per_s,
            one.room >> 20,
            one.memory >> 20
        );
    }
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
