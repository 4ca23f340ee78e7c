//! `replay`: trains the contributions to a recorded round again, offline, from what is public: the record, the model state that the
//! round started from, and the data. `round --dry-run`: trains this node's slot of the open round and checks it as others would,
//! and hands nothing in.

use crate::{
    cli::{ClientArgs, ReplayArgs, RoundArgs},
    client::{self, Client},
    error::NodeError,
    genesis, holders,
    output::say,
    progress::Progress,
    rpc::types::RoundView,
};
use ailo_ledger::state::{Phase, Round};
use ailo_protocol::{
    Genesis, Hash, NodeId,
    contribution::{Contribution, Payload, trace_commitment, update_hash},
};
use ailo_training::{
    Control, Dataset, Local, ModelState, TrainingError, check, class,
    round::{Rules, Slot, lowered},
    set_threads,
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A round as somebody prints it who has it: with or without the reply around it.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Record {
    View(Box<RoundView>),
    Round(Box<Round>),
}

/// Files of a folder that has all that a replay needs but the data.
const RECORD: &str = "record.json";
const NETWORK: &str = "network.toml";
const BASE: &str = "base.state";

/// Writes such a folder, of a round that a node of this machine still has the base of.
pub fn save(folder: &Path, view: &RoundView, args: &ClientArgs) -> Result<(), NodeError> {
    if view.past.is_none() {
        return Err(NodeError::Usage(format!("round {} has not closed yet: save one that has", view.round.number)));
    }
    let of_node = client::data_dir(args)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|e| NodeError::file("write", &path, e))
    };
    let copy = |from: &Path, name: &str| {
        let bytes = fs::read(from).map_err(|e| NodeError::file("read", from, e))?;
        write(name, &bytes)
    };
    let (network, root) = (of_node.join(NETWORK), view.round.base_root);
    // The first one is made of the network's seed.
    let state =
        (root != genesis::read(&network)?.model_root).then(|| of_node.join("model").join(format!("{root}.state")));
    if let Some(state) = state.as_ref().filter(|state| !state.exists()) {
        let why = format!("{} is not here any more: nodes keep the models of the last rounds only", state.display());
        return Err(NodeError::Check(why));
    }
    if fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()) {
        return Err(NodeError::Usage(format!("{} holds something already: name another folder", folder.display())));
    }
    fs::create_dir_all(folder).map_err(|e| NodeError::file("create", folder, e))?;
    copy(&network, NETWORK)?;
    state.map_or(Ok(()), |state| copy(&state, BASE))?;
    let json =
        serde_json::to_vec_pretty(view).map_err(|e| NodeError::Check(format!("the record can't be written: {e}")))?;
    write(RECORD, &json)?;
    let (round, shown) = (view.round.number, folder.display());
    say(
        &json!({ "round": round, "folder": folder }),
        format_args!("round {round} is in {shown}: `ailo-node replay {shown}`"),
    )
}

/// Replays a recorded round.
pub fn command(args: &ReplayArgs) -> Result<(), NodeError> {
    let folder = args.record.is_dir().then_some(&args.record);
    let file = folder.map_or_else(|| args.record.clone(), |folder| folder.join(RECORD));
    let of_folder = |given: &Option<PathBuf>, name: &str| given.clone().or_else(|| Some(folder?.join(name)));
    let network = of_folder(&args.network, NETWORK).ok_or_else(|| {
        NodeError::Usage("--network is missing: the file of the network that the record is of".into())
    })?;
    let text = fs::read_to_string(&file).map_err(|e| NodeError::file("read", &file, e))?;
    let record = serde_json::from_str(&text).map_err(|e| {
        NodeError::Usage(format!(
            "{} is no record of a round, such as `ailo-node round N --json` prints: {e}",
            file.display()
        ))
    })?;
    let round = match record {
        Record::View(view) => view.round,
        Record::Round(round) => *round,
    };
    // A ledger's powers are far below this; those of a record may be anything.
    let powers = round.power.0.iter().try_fold(0u64, |sum, validator| sum.checked_add(validator.power));
    let most = round.contributions.values().map(|commit| commit.valid).chain(powers).max().unwrap_or(0);
    if powers.is_none() || most > u64::MAX / 4 {
        return Err(NodeError::Usage(format!("{} names powers that no ledger has", file.display())));
    }
    let genesis = genesis::read(&network)?;
    let data = data(&args.data, &genesis)?;
    let base = base(&of_folder(&args.model, BASE).unwrap_or_default(), &genesis, &round.base_root)?;
    set_threads(args.threads);
    let rules = rules(&genesis, &data, !args.gpu);
    let here = class::determinism_class(rules.device)?;
    let (number, network) = (round.number, genesis.id());
    say(
        &json!({ "round": number, "network": network, "model": round.base_root }),
        format_args!("round {number} of network {}, from model {}", network.short(), round.base_root.short()),
    )?;
    if args.node.is_some_and(|node| round.slot(&node).is_none()) {
        return Err(NodeError::Usage("--node: this node has no slot in the round".into()));
    }
    let (mut updates, mut compared, mut differ, mut unsure) = (Vec::new(), 0, 0, 0);
    let nodes: Vec<_> = round.participants.iter().filter(|node| args.node.is_none_or(|it| it == **node)).collect();
    let mut progress = Progress::count("training again", nodes.len() as u64);
    let mut tell = |done: u64, node: &NodeId, found: &str, text: String| {
        progress.set(done);
        progress.beside(|| {
            say(&json!({ "node": node, "found": found, "text": text }), format_args!("node {}  {text}", node.short()))
        })
    };
    for (done, node) in (1..).zip(nodes) {
        let Some(commit) = round.contributions.get(node) else {
            tell(done, node, "nothing", "handed in nothing".into())?;
            continue;
        };
        let made = &commit.contribution;
        compared += 1;
        let local = match rules.train(&slot_of(&round, node), &base, &mut |_| Control::Continue) {
            Err(e @ TrainingError::Diverged { .. }) if made.class == here => {
                differ += 1;
                tell(done, node, "different", format!("DIFFERS: here there is nothing to hand in, as {e}"))?;
                continue;
            }
            trained => trained?,
        };
        let encoded = rules.encode(&local.update, &round.seed)?;
        let same = result(made, node, &local, &encoded) == made.result();
        let (found, verdict) = match (same, made.class == here) {
            (true, _) => ("same", "the same to the bit".to_string()),
            (false, true) => {
                differ += 1;
                let (got, wanted) = (update_hash(&encoded).short(), made.update.short());
                ("different", format!("DIFFERS: here it gives update {got}, not {wanted}"))
            }
            (false, false) => {
                unsure += 1;
                let (theirs, here) = (made.class.short(), here.short());
                ("unknown", format!("can't tell: made on a machine of class {theirs}, this one is {here}"))
            }
        };
        tell(done, node, found, verdict)?;
        if round.is_accepted(commit) {
            updates.push((same, rules.admit(&encoded, &base, &round.seed)?));
        }
    }
    let all_the_same = !updates.is_empty() && updates.iter().all(|(same, _)| *same);
    drop(progress);
    let model = |root: Option<Hash>, found: &str, text: &str| {
        let short = root.map_or("   ".into(), |root| root.short());
        say(&json!({ "model": root, "found": found, "text": text }), format_args!("model {short}  {text}"))
    };
    if args.node.is_none() && !all_the_same {
        model(None, "unknown", "not computed: that takes the accepted updates, all of them the same")?;
    }
    if args.node.is_none() && all_the_same {
        let updates: Vec<Vec<f32>> = updates.into_iter().map(|(_, update)| update).collect();
        let root = rules.next(&updates, &base, round.f as usize, &round.seed)?.root();
        match round.tally().into_iter().find(|(_, power)| round.power.is_quorum(*power)) {
            Some((voted, _)) if voted == root => model(Some(root), "same", "the one that was voted for")?,
            Some((voted, _)) => {
                differ += 1;
                model(Some(root), "different", &format!("DIFFERS: voted for was {}", voted.short()))?;
            }
            None => model(Some(root), "unknown", "no vote is recorded")?,
        }
    }
    match (differ, unsure) {
        (0, 0) if compared > 0 => Ok(()),
        (0, 0) => Err(NodeError::Check("there was nothing to compare: nobody has handed in anything yet".into())),
        (0, _) => Err(NodeError::Check(format!("{unsure} contributions are of other classes of machines"))),
        _ => Err(NodeError::Check(format!("{differ} results differ from the record"))),
    }
}

/// Trains this node's slot of the open round, and checks the result.
pub async fn dry_run(args: &RoundArgs) -> Result<(), NodeError> {
    let client = Client::find(&args.client)?;
    let open = client.round(None).await?;
    let round = open.ok_or_else(|| NodeError::Check("the node knows of no open round".into()))?.value.round;
    if round.phase == Phase::Gather {
        let why = "no round is open: slots and data are drawn when the next one opens; try again then";
        return Err(NodeError::Check(why.into()));
    }
    let node = holders::node(args.node, &args.client)?;
    let folder = client::data_dir(&args.client)?;
    let genesis = genesis::read(&folder.join("network.toml"))?;
    let data = data(&args.data, &genesis)?;
    let base = base(&folder.join("model").join(format!("{}.state", round.base_root)), &genesis, &round.base_root)?;
    let cpu = args.cpu;
    tokio::task::spawn_blocking(move || check_own(&round, &node, &rules(&genesis, &data, cpu), &genesis, &base))
        .await
        .map_err(|e| NodeError::Check(format!("the training failed: {e}")))?
}

fn check_own(
    round: &Round,
    node: &NodeId,
    rules: &Rules<'_>,
    genesis: &Genesis,
    base: &ModelState,
) -> Result<(), NodeError> {
    set_threads(1);
    let slot = slot_of(round, node);
    let (number, own, slots) = (round.number, round.slot(node), round.participants.len());
    let text = match own {
        Some(slot) => format!("round {number}: slot {slot} of {slots}"),
        None => format!("round {number}: this node has no slot, so it tries slot 0"),
    };
    say(&json!({ "round": number, "slot": own, "slots": slots }), text)?;
    let train = || -> Result<(Local, Vec<u8>), NodeError> {
        let local = rules.train(&slot, base, &mut |_| Control::Continue)?;
        let encoded = rules.encode(&local.update, &slot.seed)?;
        Ok((local, encoded))
    };
    let training = Progress::wait("training");
    let (local, encoded) = train()?;
    drop(training);
    let mut failed = 0;
    let mut line = |what: &str, holds: bool, text: String| {
        failed += u32::from(!holds);
        let mark = if holds { "ok  " } else { "FAIL" };
        say(&json!({ "check": what, "ok": holds, "text": text }), format_args!("  {mark} {what:<10} {text}"))
    };
    let nats = |micro: u64| micro as f64 / 1e6;
    line("loss", true, format!("from {:.4} to {:.4} on its own data", nats(local.loss_first), nats(local.loss_last)))?;
    let bytes = (Payload::FRAME_BYTES + encoded.len()) as u64;
    let max = genesis.params.round.max_payload_bytes;
    line("payload", bytes <= max, format!("{bytes} bytes of {max} at most"))?;
    let admitted = rules.admit(&encoded, base, &slot.seed);
    let (norm, bound) =
        (check::norm(&local.update), check::norm(&base.weights) * f64::from(rules.training.max_update_norm));
    let why = admitted.as_ref().err().map_or(String::new(), |e| format!("; {e}"));
    line("update", admitted.is_ok(), format!("{norm:.3} long, {bound:.3} at most{why}"))?;
    if let Ok(update) = &admitted {
        let before = rules.score_of_base(base, &slot.seed)?;
        let after = rules.score(update, base, &slot.seed)?;
        line("score", true, format!("held-out loss {:.4} alone, {:.4} before", nats(after), nats(before)))?;
        let own = nats_signed(rules.gain(&slot, base, update, &slot.seed)?);
        let other = nats_signed(lowered(before, after));
        let text = format!(
            "{own:.4} nats on its own data, {other:.4} on held-out text: more on its own tells that it trained it"
        );
        line("gain", true, text)?; // it tells something, but the samples are small
    }
    let training = Progress::wait("training once more");
    let again = train()?;
    drop(training);
    let same = again == (local, encoded);
    line("replay", same, format!("trained twice, to {} bits", if same { "the same" } else { "DIFFERENT" }))?;
    let class = class::determinism_class(rules.device)?;
    match round.class {
        Some(wanted) => {
            line("class", wanted == class, format!("{} here, {} in the network", class.short(), wanted.short()))?
        }
        None => line("class", true, format!("{} here; the network has none with 2/3 of the power", class.short()))?,
    }
    if failed == 0 { Ok(()) } else { Err(NodeError::Check(format!("{failed} checks fail: see above"))) }
}

fn nats_signed(micro: i64) -> f64 {
    micro as f64 / 1e6
}

fn slot_of(round: &Round, node: &NodeId) -> Slot {
    let slots = u32::try_from(round.participants.len()).unwrap_or(u32::MAX).max(1);
    Slot { steps: round.steps, seed: round.seed, slot: round.slot(node).unwrap_or(0), slots }
}

/// What the contribution's [`Contribution::result`] should be.
fn result(made: &Contribution, node: &NodeId, local: &Local, encoded: &[u8]) -> Hash {
    let right = Contribution {
        update: update_hash(encoded),
        trace: trace_commitment(node, &local.trace),
        loss_first: local.loss_first,
        loss_last: local.loss_last,
        ..made.clone()
    };
    right.result()
}

fn rules<'a>(genesis: &'a Genesis, data: &'a Dataset, cpu: bool) -> Rules<'a> {
    let params = &genesis.params;
    Rules { model: &params.model, training: &params.training, data, device: ailo_training::device(!cpu) }
}

fn data(paths: &[PathBuf], genesis: &Genesis) -> Result<Dataset, NodeError> {
    let data = genesis::open_data(paths, &genesis.params.model)?;
    if data.root() == genesis.dataset.root {
        return Ok(data);
    }
    Err(NodeError::Usage(format!(
        "this data is not the network's, which trains on {}: name it with --data",
        genesis.dataset.name
    )))
}

fn base(path: &Path, genesis: &Genesis, root: &Hash) -> Result<ModelState, NodeError> {
    if *root == genesis.model_root && !path.exists() {
        return Ok(ModelState::initial(&genesis.params.model, genesis.seed));
    }
    Ok(ModelState::load(&genesis.params.model, path, root)?)
}
