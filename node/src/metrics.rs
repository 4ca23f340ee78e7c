//! `/metrics`: what a node does, for Prometheus (OpenMetrics text). All of it is read when it is asked for, and none of it from the ledger's index, so that
//! who watches a busy node waits for no turn; what happens now and then is counted by [`Counts`]. Names have their units, as is the custom there; labels
//! have few values, and none that a stranger chooses.

use crate::{
    earned::paid,
    inference::api::{
        Api,
        access::{Access, by_our_names},
    },
    logs, machine,
    rpc::Context,
};
use ailo_ledger::{
    Block,
    state::{Event, Phase, RewardKind},
};
use ailo_protocol::{Amount, NodeId, net::Reachability};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, NoLabelSet, text},
    metrics::{MetricType, histogram::Histogram},
    registry::Registry,
};
use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Seconds from a request to its first token, as a histogram has them.
const LATENCIES: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const PHASES: [Phase; 5] = [Phase::Gather, Phase::Train, Phase::Draw, Phase::Verify, Phase::Vote];
const STATES: [&str; 3] = ["public", "nat", "unknown"];

/// What wallets are paid for, under its name.
const KINDS: [(RewardKind, &str); 7] = [
    (RewardKind::Training, "training"),
    (RewardKind::BestLoss, "best_loss"),
    (RewardKind::Proposer, "proposer"),
    (RewardKind::Confirmer, "confirmer"),
    (RewardKind::Replay, "replay"),
    (RewardKind::Uptime, "uptime"),
    (RewardKind::Inference, "inference"),
];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// So much more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened on the ledger since this node started.
#[derive(Debug, Default)]
pub struct Counts {
    blocks: Count,
    transactions: Count,
    refused: Count,
    /// Transactions that wait; not a count, but what was seen last.
    waiting: AtomicU64,
    rounds: Count,
    aborted: Count,
    accepted: Count,
    rejected: Count,
    slashed: Count,
    /// In units, by the places of [`KINDS`].
    earned: [Count; KINDS.len()],
}

impl Counts {
    /// A block stands, with what happened in it. Own contributions are those of `node`.
    pub fn block(&self, block: &Block, events: &[Event], node: &NodeId) {
        self.blocks.add(1);
        self.transactions.add(block.transactions.len() as u64);
        for event in events {
            match event {
                Event::RoundClosed { accepted, .. } => {
                    self.rounds.add(1);
                    if accepted.contains(node) {
                        self.accepted.add(1);
                    }
                }
                Event::RoundAborted { .. } => self.aborted.add(1),
                Event::Slashed { node: whose, .. } if whose == node => self.slashed.add(1),
                _ => {}
            }
            if let Some((kind, amount)) = paid(event, node) {
                self.earn(kind, amount.0);
            }
        }
    }

    fn earn(&self, kind: RewardKind, units: u64) {
        let place = KINDS.iter().position(|(known, _)| *known == kind);
        if let Some(place) = place {
            self.earned[place].add(units);
        }
    }

    /// A contribution of this node was left out of a round that closed.
    pub fn left_out(&self) {
        self.rejected.add(1);
    }

    /// The waiting room refused so many transactions that were handed in here.
    pub fn refuse(&self, transactions: usize) {
        self.refused.add(transactions as u64);
    }

    /// So many transactions wait.
    pub fn wait(&self, transactions: usize) {
        self.waiting.store(transactions as u64, Ordering::Relaxed);
    }
}

/// What has been written here since this node started.
#[derive(Debug)]
pub struct Texts {
    begun: Count,
    finished: Count,
    failed: Count,
    tokens: Count,
    first_token: Histogram,
}

impl Default for Texts {
    fn default() -> Texts {
        let (begun, finished, failed, tokens) = Default::default();
        Texts { begun, finished, failed, tokens, first_token: Histogram::new(LATENCIES) }
    }
}

impl Texts {
    /// A text is asked for.
    pub fn begin(&self) {
        self.begun.add(1);
    }

    /// A token has come; of the first one, how long it took.
    pub fn token(&self, first_after: Option<Duration>) {
        self.tokens.add(1);
        if let Some(after) = first_after {
            self.first_token.observe(after.as_secs_f64());
        }
    }

    /// The text has ended, well or not.
    pub fn end(&self, well: bool) {
        if well { self.finished.add(1) } else { self.failed.add(1) }
    }
}

/// What metrics are made of.
pub struct Sources {
    /// What JSON-RPC answers from, too.
    pub context: Arc<Context>,
    /// Texts that are asked for here.
    pub api: Arc<Api>,
    /// Whose disk is looked at.
    pub folder: PathBuf,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

/// The route, under the names that `access` knows.
pub fn router(sources: Sources, access: Arc<Access>) -> Router {
    let context = sources.context.clone();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sources));
    Router::new()
        .route("/metrics", get(page))
        .layer(middleware::from_fn_with_state(access, by_our_names))
        .with_state(Arc::new((registry, context)))
}

async fn page(State(state): State<Arc<(Registry, Arc<Context>)>>) -> Response {
    let made = tokio::task::spawn_blocking(move || {
        let mut page = String::new();
        text::encode_registry(&mut page, &state.0)?;
        text::encode_registry(&mut page, state.1.net.traffic())?;
        text::encode_eof(&mut page)?;
        Ok::<_, fmt::Error>(page)
    });
    match made.await {
        Ok(Ok(page)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], page).into_response()
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Writes metrics one after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// What may be absent; its name is there in any case.
    fn perhaps<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: Option<V>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        (name, label): (&str, &str),
        help: &str,
        values: impl IntoIterator<Item = (String, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            metric.encode_family(&[(label, of.as_str())])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<V: EncodeCounterValue>(
        &mut self,
        (name, label): (&str, &str),
        help: &str,
        values: impl IntoIterator<Item = (&'static str, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            let labels = [(label, of)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }
}

/// Coins, as a floating number: only shown.
fn alc(amount: Amount) -> f64 {
    amount.0 as f64 / 1e8
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.ledger(&mut page)?;
        self.training(&mut page)?;
        self.coins(&mut page)?;
        self.peers(&mut page)?;
        self.texts(&mut page)?;
        self.machine(&mut page)
    }
}

impl Sources {
    fn ledger(&self, page: &mut Page<'_>) -> fmt::Result {
        let (head, counts) = (self.context.chain.head(), self.context.chain.counts());
        let (state, node) = (&head.state, &self.context.node);
        let seats = state.seats(state.epoch()).map_or(0, |seats| seats.0.len());
        let version = [(env!("CARGO_PKG_VERSION").to_string(), 1u64)];
        page.gauges(("ailo_build_info", "version"), "The version that runs.", version)?;
        page.gauge("ailo_block_height", "Height of the newest block here.", state.height())?;
        page.gauge("ailo_block_timestamp_seconds", "Time of the newest block.", state.time_ms() as f64 / 1e3)?;
        page.counter("ailo_blocks", "Blocks that this node has executed since its start.", counts.blocks.get())?;
        page.counter("ailo_transactions", "Transactions in them.", counts.transactions.get())?;
        page.counter("ailo_transactions_refused", "Transactions that were refused here.", counts.refused.get())?;
        let waiting = counts.waiting.load(Ordering::Relaxed);
        page.gauge("ailo_mempool_transactions", "Transactions that wait for a block.", waiting)?;
        page.gauge("ailo_epoch", "Epoch of the ledger.", state.epoch())?;
        page.gauge("ailo_validators", "Validators of the next height.", state.validators().0.len() as u64)?;
        page.gauge("ailo_seats", "Nodes that hold a seat.", seats as u64)?;
        let validates = state.validators().power(node) > 0;
        page.gauge("ailo_validating", "1 while this node is a validator.", u64::from(validates))?;
        let jailed = state.node(node).is_some_and(|node| node.jailed_until.is_some());
        page.gauge("ailo_jailed", "1 while this node is jailed.", u64::from(jailed))?;
        page.counter("ailo_slashes", "How often this node's stake was slashed since its start.", counts.slashed.get())
    }

    fn training(&self, page: &mut Page<'_>) -> fmt::Result {
        let (head, counts) = (self.context.chain.head(), self.context.chain.counts());
        let (state, progress) = (&head.state, self.context.progress.borrow().clone());
        let round = state.round();
        let phases = PHASES.map(|phase| (phase.to_string(), u64::from(phase == round.phase)));
        page.gauge("ailo_training", "1 where this node trains.", u64::from(self.context.operator.controls().training))?;
        page.gauge("ailo_round", "Number of the open round.", round.number)?;
        page.gauges(("ailo_round_phase", "phase"), "1 for the phase that the round is in.", phases)?;
        page.gauge("ailo_round_participants", "Nodes in the open round.", round.participants.len() as u64)?;
        page.gauge("ailo_round_commits", "Contributions to it so far.", round.contributions.len() as u64)?;
        let step = if progress.round == round.number { progress.step } else { 0 };
        page.gauge("ailo_round_step", "Inner steps that this node has taken in it.", step)?;
        page.gauge("ailo_round_steps", "Inner steps of a round.", self.context.genesis.params.training.inner_steps)?;
        page.gauge("ailo_training_tokens_per_second", "How fast this node trains.", progress.tokens_per_s)?;
        page.perhaps("ailo_training_loss_nats", "Its training loss, a token.", progress.loss)?;
        let model = state.model();
        let held_out = model.loss.map(|micro| micro as f64 / 1e6);
        page.perhaps("ailo_model_loss_nats", "Held-out loss of the network's model, a token.", held_out)?;
        page.gauge("ailo_model_rounds", "Rounds behind the network's model.", model.steps)?;
        page.perhaps("ailo_model_local_rounds", "Rounds behind the state that this node has.", progress.local_rounds)?;
        let ends = [("closed", counts.rounds.get()), ("aborted", counts.aborted.get())];
        page.counters(("ailo_rounds", "end"), "Rounds that have ended since this node's start.", ends)?;
        let mine = [("accepted", counts.accepted.get()), ("rejected", counts.rejected.get())];
        page.counters(("ailo_contributions", "outcome"), "This node's contributions since its start.", mine)
    }

    fn coins(&self, page: &mut Page<'_>) -> fmt::Result {
        let (head, counts) = (self.context.chain.head(), self.context.chain.counts());
        let account = head.state.account(&head.state.account_at(&self.context.wallet));
        let supply = head.state.supply();
        let parts = [
            ("free", account.free),
            ("pending", account.incoming),
            ("staked", account.staked),
            ("unbonding", account.unbonding),
            ("owed", account.owes),
        ];
        let wallet = parts.map(|(part, amount)| (part.to_string(), alc(amount)));
        page.gauges(("ailo_wallet_alc", "part"), "Coins of this node's wallet.", wallet)?;
        let supply = [("minted".to_string(), alc(supply.minted)), ("burned".to_string(), alc(supply.burned))];
        page.gauges(("ailo_supply_alc", "part"), "Coins of the network since its beginning.", supply)?;
        let earned = KINDS.iter().zip(&counts.earned).map(|((_, kind), units)| (*kind, alc(Amount(units.get()))));
        page.counters(("ailo_earned_alc", "kind"), "What this node has earned since its start, by kind.", earned)
    }

    fn peers(&self, page: &mut Page<'_>) -> fmt::Result {
        let net = &self.context.net;
        let peers = net.peers();
        let relayed = peers.iter().filter(|peer| peer.address.to_string().contains("/p2p-circuit")).count() as u64;
        let ways = [("direct", peers.len() as u64 - relayed), ("relay", relayed)].map(|(way, n)| (way.to_string(), n));
        page.gauges(("ailo_peers", "way"), "Connected peers, by the way to them.", ways)?;
        let now = match net.reachability() {
            Reachability::Public { .. } => 0,
            Reachability::Nat { .. } => 1,
            Reachability::Unknown { .. } => 2,
        };
        let states = STATES.iter().enumerate().map(|(i, state)| (state.to_string(), u64::from(i == now)));
        page.gauges(("ailo_reachability", "state"), "1 for how peers elsewhere reach this node.", states)?;
        let stats = net.stats();
        let gossip = [
            ("taken", stats.gossip_received),
            ("dropped", stats.gossip_dropped),
            ("rejected", stats.gossip_rejected),
            ("unsent", stats.gossip_unsent),
        ];
        page.counters(("ailo_gossip_messages", "outcome"), "Gossip messages.", gossip)?;
        let requests = [("taken", stats.requests_received), ("refused", stats.requests_refused)];
        page.counters(("ailo_peer_requests", "outcome"), "Requests of peers.", requests)?;
        page.counter("ailo_peer_bans", "Peers that were banned.", stats.bans)?;
        let circuits = [("carried", stats.relayed), ("refused", stats.relay_refused)];
        page.counters(("ailo_relay_circuits", "outcome"), "Connections of others through this node.", circuits)?;
        let punches = [("direct", stats.punched), ("relay", stats.not_punched)];
        page.counters(("ailo_hole_punches", "outcome"), "What became of connections through a relay.", punches)
    }

    fn texts(&self, page: &mut Page<'_>) -> fmt::Result {
        let texts = &self.context.hub.texts;
        let (writing, waiting) = self.api.load();
        let (room, token_us) = self.context.hub.now().unzip();
        page.counter("ailo_texts_begun", "Texts that were asked for here.", texts.begun.get())?;
        let ends = [("finished", texts.finished.get()), ("failed", texts.failed.get())];
        page.counters(("ailo_texts", "end"), "Texts that have ended.", ends)?;
        page.counter("ailo_text_tokens", "Tokens written for those who asked here.", texts.tokens.get())?;
        page.gauge("ailo_texts_writing", "Texts that are being written.", writing as u64)?;
        page.gauge("ailo_texts_waiting", "Requests that wait for a place.", waiting as u64)?;
        let help = "From a request to its first token.";
        let histogram = page.0.encode_descriptor("ailo_text_first_token_seconds", help, None, MetricType::Histogram)?;
        texts.first_token.encode(histogram)?;
        page.perhaps("ailo_serving_room_bytes", "Memory that no text has, where layers are served.", room)?;
        let seconds = token_us.map(|us| f64::from(us) / 1e6);
        page.perhaps("ailo_serving_token_seconds", "What a token takes through the layers served here.", seconds)
    }

    fn machine(&self, page: &mut Page<'_>) -> fmt::Result {
        let sensors = self.context.sensors.borrow().clone();
        page.perhaps("ailo_cpu_temperature_celsius", "The processor's temperature.", sensors.cpu_celsius)?;
        page.perhaps("ailo_cpu_power_watts", "What the processor draws.", sensors.cpu_watts)?;
        let cards = || sensors.gpus.iter().enumerate().map(|(i, card)| (i.to_string(), card));
        let warm = cards().filter_map(|(i, card)| Some((i, card.celsius?)));
        page.gauges(("ailo_gpu_temperature_celsius", "gpu"), "Temperatures of graphics cards.", warm)?;
        let power = cards().filter_map(|(i, card)| Some((i, card.watts?)));
        page.gauges(("ailo_gpu_power_watts", "gpu"), "What graphics cards draw.", power)?;
        let busy = cards().filter_map(|(i, card)| Some((i, card.busy?)));
        page.gauges(("ailo_gpu_busy_ratio", "gpu"), "How busy graphics cards are.", busy)?;
        let used = cards().filter_map(|(i, card)| Some((i, card.memory?.0)));
        page.gauges(("ailo_gpu_memory_used_bytes", "gpu"), "Memory of graphics cards in use.", used)?;

        page.gauge("ailo_memory_limit_bytes", "Memory that this process may take.", machine::memory())?;
        let disk = machine::disk(&self.folder);
        page.perhaps("ailo_disk_free_bytes", "Free on the disk of the data folder.", disk.map(|(free, _)| free))?;
        page.perhaps("ailo_disk_size_bytes", "Size of that disk.", disk.map(|(_, size)| size))?;
        page.counters(("ailo_log_records", "level"), "Lines of the log.", logs::counts())?;
        page.counter("ailo_trace_lost_spans", "Spans that did not reach the collector.", logs::otlp::lost())?;
        let Some(process) = machine::process() else { return Ok(()) };
        page.counter("process_cpu_seconds", "Processor time that this process has used.", process.cpu_seconds)?;
        page.gauge("process_start_time_seconds", "When this process started.", process.start_seconds)?;
        page.gauge("process_resident_memory_bytes", "Memory of this process.", process.resident_bytes)?;
        page.gauge("process_virtual_memory_bytes", "Address space of this process.", process.virtual_bytes)?;
        page.gauge("process_threads", "Threads of this process.", process.threads)?;
        page.gauge("process_open_fds", "Files that it has open.", process.open_files)?;
        page.perhaps("process_max_fds", "Files that it may have open.", process.max_files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_pay_has_a_name_of_its_own() {
        let counts = Counts::default();
        for (place, (kind, name)) in KINDS.iter().enumerate() {
            counts.earn(*kind, 7);
            assert_eq!(counts.earned[place].get(), 7, "{name}");
            assert_eq!(serde_json::to_value(kind).ok(), Some((*name).into()));
        }
    }
}
