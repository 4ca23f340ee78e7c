//! The commands beside `run`, `genesis` and `localnet`: wallet, staking, status, generation.

use crate::{
    aggregate, backup,
    cli::*,
    client::{self, Client},
    config::{Settings, show as settings},
    datadir::{DataDir, NODE_KEY, WALLET_WORDS},
    doctor,
    error::NodeError,
    genesis, holders, inference, localnet,
    logs::{self, printable},
    operator,
    output::{say, show, show_secret},
    progress::Progress,
    replay, round,
    rpc::types::*,
    secrets, service, simulate, tx, verify,
};
use ailo_ledger::{Body, Transaction, state::Event, store::Subject};
use ailo_protocol::{Address, Hash, Keypair, Username, keystore};
use ailo_training::{class::determinism_class, device, set_threads};
use serde_json::json;
use std::{
    fmt::{self, Write},
    time::{Duration, Instant},
};

/// A transaction that was sent gets so long to enter a block.
const WAITS: Duration = Duration::from_secs(60);

/// Runs the command that was given.
pub async fn dispatch(cli: Cli) -> Result<(), NodeError> {
    logs::start(&cli.log, cli.log_format)?;
    match cli.command {
        Command::Run(args) => service::run(Settings::resolve(&args)?, args.stop_on_eof).await,
        Command::Genesis(args) => genesis::command(&args),
        Command::Keys(args) => keys(&args),
        Command::ApiKeys(command) => inference::api::keys::command(command),
        Command::Wallet(command) => wallet(command).await,
        Command::Tx(command) => tx::command(command).await,
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
        Command::Simulate(SimulateCommand::Plants) => simulate::ledger::plants(),
        Command::Doctor(args) => doctor::command(args).await,
        Command::Config(command) => settings::command(command),
        Command::Backup(args) => backup::backup(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Completions(args) => completions(&args),
        Command::Man(args) => manual(&args),
    }
}

fn class(args: &ClassArgs) -> Result<(), NodeError> {
    set_threads(1);
    let computing = Progress::wait("computing as training does");
    let class = determinism_class(device(!args.cpu))?;
    drop(computing);
    say(&json!({ "class": class }), class)
}

/// What a shell needs to complete commands and flags.
fn completions(args: &CompletionsArgs) -> Result<(), NodeError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::tree(), "ailo-node", &mut script);
    let script = String::from_utf8_lossy(&script);
    show(&json!({ "shell": args.shell.to_string(), "script": script }), |out| out.write_str(&script))
}

/// Pages of the manual.
fn manual(args: &ManArgs) -> Result<(), NodeError> {
    let page = |command: clap::Command| {
        let mut page = Vec::new();
        let written = clap_mangen::Man::new(command).render(&mut page);
        written.map_err(|e| NodeError::io("write a page of the manual", e)).map(|()| page)
    };
    let Some(dir) = &args.dir else {
        let page = page(Cli::tree())?;
        let page = String::from_utf8_lossy(&page);
        return show(&json!({ "page": page }), |out| out.write_str(&page));
    };
    std::fs::create_dir_all(dir).map_err(|e| NodeError::file("create the folder", dir, e))?;
    let mut pages = vec![("ailo-node".to_string(), Cli::tree())];
    let mut written = Vec::new();
    while let Some((call, command)) = pages.pop() {
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        pages.extend(below.map(|below| (format!("{call} {}", below.get_name()), below.clone())));
        let name = call.replace(' ', "-");
        let path = dir.join(format!("{name}.1"));
        let command = command.display_name(name).bin_name(call);
        std::fs::write(&path, page(command)?).map_err(|e| NodeError::file("write", &path, e))?;
        written.push(path);
    }
    let (count, shown) = (written.len(), dir.display());
    say(&json!({ "pages": written }), format_args!("{count} pages are in {shown}: `man -M` or MANPATH finds them"))
}

fn keys(args: &KeysArgs) -> Result<(), NodeError> {
    let dir = DataDir::open(&args.data_dir)?;
    let node = dir.key(keystore::Kind::Node)?;
    let wallet = Address::from(dir.key(keystore::Kind::Wallet)?.public());
    let node = node.public();
    let founder = format!("{node},{wallet},validator");
    let sealed = |name: &str, kind| keystore::is_sealed(&dir.path(name), kind);
    let locked = sealed(NODE_KEY, keystore::Kind::Node)? && sealed("wallet.json", keystore::Kind::Wallet)?;
    show(&json!({ "node": node, "wallet": wallet, "founder": founder, "locked": locked }), |out| {
        writeln!(out, "node     {node}\nwallet   {wallet}\nlocked   {}\nfounder  {founder}", lock(locked))
    })
}

async fn wallet(command: WalletCommand) -> Result<(), NodeError> {
    match command {
        WalletCommand::New { restore, client } => wallet_new(restore, &client),
        WalletCommand::Show(args) => wallet_show(&args).await,
        WalletCommand::Address(args) => {
            let address = client::wallet_address(&args)?;
            let key = keystore::public(&client::wallet_path(&args)?, keystore::Kind::Wallet)?;
            say(&json!({ "address": address, "key": key }), address)
        }
        WalletCommand::Send { to, amount, memo, expect, no_wait, client } => {
            let (to, name) = match to {
                Recipient::Address(address) => (address, String::new()),
                Recipient::Name(name) => (owner(&name, expect, &client).await?, format!("@{name}, ")),
            };
            if let Some(expected) = expect.filter(|expected| *expected != to) {
                return Err(NodeError::Check(format!(
                    "this would go to {name}{to}, not to {expected}: nothing is sent"
                )));
            }
            let body = Body::Transfer { to, amount, memo };
            send(&client, body, !no_wait, &format!("sent {amount} ALC to {name}{to}")).await
        }
        WalletCommand::Passphrase { node_key, client } => wallet_passphrase(node_key, &client),
        WalletCommand::History { limit, client } => wallet_history(&client, limit).await,
        other => holders::wallet(other).await,
    }
}

/// Who has a user name. On the bare word of somebody else's node only where the sender knows the answer.
async fn owner(name: &Username, expect: Option<Address>, args: &ClientArgs) -> Result<Address, NodeError> {
    let client = Client::find(args)?;
    if args.rpc.is_none() || expect.is_some() || !client.is_elsewhere() {
        return Ok(client.owner(name).await?.value.address);
    }
    match args.data_dir.as_ref().filter(|dir| dir.join("network.toml").exists()) {
        Some(dir) => verify::owner(client.url(), dir, name).await,
        None => Err(NodeError::Usage(format!(
            "{} could name anybody as the owner of @{name}: say whose address you expect with --expect, or name your own node's folder \
             with --data-dir, and the answer is proved against its network",
            client.url()
        ))),
    }
}

fn wallet_new(restore: bool, args: &ClientArgs) -> Result<(), NodeError> {
    let path = client::wallet_path(args)?;
    let phrase = if restore { secrets::words("The wallet's 24 words")? } else { keystore::new_phrase() };
    let key = keystore::key_from_phrase(&phrase)?;
    let passphrase = secrets::choose(&path)?;
    keystore::create(&path, keystore::Kind::Wallet, &key, passphrase.as_ref().map(|it| it.as_str()))?;
    let (address, locked) = (Address::from(key.public()), passphrase.is_some());
    let mut made = json!({ "address": address, "file": path, "locked": locked });
    if !restore {
        made["words"] = json!(*phrase);
    }
    show_secret(&made, |out| {
        writeln!(out, "address  {address}\nfile     {}\nlocked   {}", path.display(), lock(locked))?;
        match restore {
            true => Ok(()),
            false => writeln!(out, "\n{WALLET_WORDS}\n\n{}", *phrase),
        }
    })
}

/// Whether a key file takes a passphrase, for a person.
pub fn lock(locked: bool) -> &'static str {
    if locked { "by the passphrase" } else { "no: whoever can read the file has the key" }
}

fn wallet_passphrase(node_key: bool, args: &ClientArgs) -> Result<(), NodeError> {
    let (path, kind) = match node_key {
        true => (client::data_dir(args)?.join(NODE_KEY), keystore::Kind::Node),
        false => (client::wallet_path(args)?, keystore::Kind::Wallet),
    };
    let key = secrets::load(&path, kind)?;
    let passphrase = secrets::renew(&path)?;
    keystore::reseal(&path, kind, &key, passphrase.as_ref().map(|it| it.as_str()))?;
    let (locked, shown) = (passphrase.is_some(), path.display());
    let done = if locked { "is locked by the new passphrase" } else { "is open to whoever can read it" };
    say(&json!({ "file": path, "locked": locked }), format_args!("{shown} {done}"))
}

async fn wallet_show(args: &ClientArgs) -> Result<(), NodeError> {
    let address = client::wallet_address(args)?;
    let account = Client::find(args)?.account(&address).await?;
    show(&account, |out| balance(out, &account))
}

/// An account for a person.
fn balance(out: &mut String, account: &At<AccountView>) -> fmt::Result {
    let (at, account) = (account.height, &account.value);
    writeln!(out, "address    {}", account.address)?;
    writeln!(out, "spendable  {} ALC", account.free)?;
    writeln!(out, "pending    {} ALC", account.pending)?;
    writeln!(out, "staked     {} ALC", account.staked)?;
    writeln!(out, "unbonding  {} ALC", account.unbonding)?;
    let deposit = &account.deposit;
    let leaving = match deposit.leaving.0 {
        0 => String::new(),
        _ => format!(", {} of it free in {} s", deposit.leaving, deposit.free_in_ms / 1000),
    };
    writeln!(out, "deposited  {} ALC for inference{leaving}", deposit.amount)?;
    if deposit.short {
        writeln!(
            out,
            "           short of what nodes were promised: they serve again after the next `wallet deposit`"
        )?;
    }
    if account.owes.0 > 0 {
        writeln!(out, "owes       {} ALC for reversed transfers: whatever comes in pays it first", account.owes)?;
    }
    if let Some(name) = &account.name {
        writeln!(out, "name       {name}")?;
    }
    writeln!(
        out,
        "recovery   {}",
        if account.recoverable {
            "a recovery key is set"
        } else {
            "none: `ailo-node wallet protect-with-recovery` sets one"
        }
    )?;
    writeln!(out, "at height  {at}")
}

async fn wallet_history(args: &ClientArgs, limit: u32) -> Result<(), NodeError> {
    let client = Client::find(args)?;
    // Since a recovery the key signs for an account that is not named after it.
    let address = client.account(&client::wallet_address(args)?).await?.value.address;
    let history = client.history(&Subject::Wallet(address), limit).await?;
    show(&history, |out| write_history(out, Some(&address), &history.value))
}

/// A page of history, a line each; `own` is the wallet whose it is, if it is one's.
pub(crate) fn write_history(out: &mut String, own: Option<&Address>, history: &HistoryView) -> fmt::Result {
    for entry in &history.entries {
        writeln!(out, "{:>8}  {}", entry.height, describe(own, &entry.event))?;
    }
    if history.entries.is_empty() {
        writeln!(out, "nothing yet")?;
    }
    Ok(())
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
        Event::ReceiptPaid { payer, node, units, amount, burned, minted, .. } => {
            let units = format!("{units} unit{}", if *units == 1 { "" } else { "s" });
            match own == Some(payer) {
                true => format!("inference  {amount} ALC to node {} for {units}", node.short()),
                false => format!("inference  {amount} ALC for {units}, {burned} burned, {minted} on top"),
            }
        }
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
        Event::Proposed { proposal, changes, .. } => {
            format!("proposed   {proposal}: {}", printable(&changes.join(", ")))
        }
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
        true => Included::wait(client, &id).await?.say(done),
        false => say(&json!({ "id": id }), format_args!("submitted {id}")),
    }
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
    /// Waits until the transaction is in a block. It was sent: what goes wrong meanwhile does not undo that.
    pub async fn wait(client: Client, id: &Hash) -> Result<Included, NodeError> {
        let started = Instant::now();
        let _waiting = Progress::wait("waiting for the block");
        let mut why = String::new();
        while let Some(left) = WAITS.checked_sub(started.elapsed()) {
            match tokio::time::timeout(left, client.transaction(id)).await {
                Ok(Ok(seen)) if seen.value.block_height.is_some() => return Ok(Included { client, seen }),
                Ok(Err(e)) => why = format!(" ({e})"),
                Ok(Ok(_)) => why.clear(),
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(NodeError::Sent { id: *id, why: format!("is in no block after {} s{why}", WAITS.as_secs()) })
    }

    /// What `pick` finds among the events of its block that belong to the signer's account, if the node tells them.
    pub async fn event<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> Option<T> {
        let account = self.client.account(&Address::from(&self.seen.value.transaction.unsigned.signer)).await.ok()?;
        let history = self.client.history(&Subject::Wallet(account.value.address), 100).await.ok()?;
        let here = history.value.entries.iter().filter(|entry| Some(entry.height) == self.seen.value.block_height);
        here.map(|entry| &entry.event).find_map(pick)
    }

    /// Says what is done now, and where it stands.
    pub fn say(&self, done: &str) -> Result<(), NodeError> {
        let TransactionView { id, status, block_height, .. } = &self.seen.value;
        let block = block_height.unwrap_or_default();
        say(&self.seen, format_args!("{done}\ntransaction {id}, {}, in block {block}", printable(status)))
    }
}

/// Signs `body` as the wallet's next transaction, behind those that wait.
pub async fn sign(client: &Client, key: &Keypair, body: Body) -> Result<Transaction, NodeError> {
    let (network, nonce) = (client.network().await?, client.next_nonce(key.public()).await?);
    Ok(Transaction::sign(&network, key, nonce, genesis::now_ms(), body))
}

async fn status(args: ClientArgs) -> Result<(), NodeError> {
    let status = Client::find(&args)?.status().await?;
    show(&status, |out| describe_status(out, &status))
}

fn describe_status(out: &mut String, status: &At<Status>) -> fmt::Result {
    let (height, s) = (status.height, &status.value);
    let loss = |l: Option<f64>| l.map_or("none yet".into(), |l| format!("{l:.4} nats/token"));
    writeln!(out, "network     {} ({})", printable(&s.network_name), s.network.short())?;
    writeln!(
        out,
        "node        {}{}{}",
        s.node,
        if s.validating { ", validating" } else { "" },
        if s.training { ", training" } else { "" }
    )?;
    writeln!(out, "block       {height} {}, epoch {}", s.block.short(), s.epoch)?;
    writeln!(out, "checkpoint  {height}:{}", s.block)?;
    match (s.sync.behind, s.sync.highest) {
        (Some(0), _) => writeln!(out, "sync        in step with its peers")?,
        (Some(behind), Some(highest)) => writeln!(out, "sync        {behind} blocks behind: peers tell of {highest}")?,
        _ => writeln!(out, "sync        not known: no peer tells how far it is")?,
    }
    writeln!(
        out,
        "peers       {}, {} validators, {} seats, {} confirmations",
        s.peers, s.validators, s.seats, s.confirmations
    )?;
    writeln!(out, "reachable   {}", printable(&s.reachability.note))?;
    writeln!(
        out,
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
    )?;
    writeln!(
        out,
        "model       {} after {} rounds, {} parameters, held-out loss {}",
        s.model.root.short(),
        s.model.rounds,
        s.model.parameters,
        loss(s.model.held_out_loss)
    )?;
    for one in &s.serving {
        let who = if one.node == s.node { "this node".into() } else { one.node.short() };
        writeln!(
            out,
            "serves      {who}: layers {}..{} of {} of {} in {}, {:.1} tokens/s, room for texts {} of {} MiB",
            one.first,
            one.end,
            one.total,
            printable(&one.name),
            printable(&one.dtype),
            one.tokens_per_s,
            one.room >> 20,
            one.memory >> 20
        )?;
    }
    writeln!(out, "wallet      {}", s.wallet)?;
    writeln!(
        out,
        "balance     {} ALC, pending {}, staked {}, unbonding {}",
        s.account.free, s.account.pending, s.account.staked, s.account.unbonding
    )?;
    writeln!(
        out,
        "supply      {} ALC minted, {} burned, law {}",
        s.supply.minted,
        s.supply.burned,
        if s.supply.law_holds { "holds" } else { "BROKEN" }
    )?;
    for note in &s.notes {
        writeln!(out, "note        {}", printable(note))?;
    }
    Ok(())
}
