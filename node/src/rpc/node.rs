//! What is asked of the node itself: its status, its peers, what it saw over time; and what its operator sets.

use super::{
    Answer, Context, count,
    errors::{Code, Failure, invalid},
    holders::account_view,
    params::*,
    types::*,
};
use crate::{
    operator::{Controls, Operator},
    series::Sample,
    service::{
        chain::Head,
        neighbours::{Neighbours, highest},
    },
};
use ailo_ledger::{
    state::{Phase, State},
    store::lower_priority,
};
use ailo_protocol::{Amount, inference::announce::Announce, net::PeerInfo};
use axum::http::Extensions;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Nodes that serve text in a status, at most.
const MAX_SERVING: usize = 64;
/// Samples of a page, at most.
const MAX_SAMPLES: usize = 256;
/// All entries of the state are summed so often.
const SUMMED: Duration = Duration::from_secs(10);
/// How much lower the priority of the thread is that does.
const NICENESS: i32 = 10;

/// Whether the supply law was broken when all entries were summed last.
#[derive(Default)]
pub struct Law {
    broken: AtomicBool,
}

impl Law {
    /// By the sums that are kept while entries change, at each height; and by all entries as they were some seconds ago.
    fn holds(&self, state: &State) -> bool {
        !self.broken.load(Ordering::Acquire) && state.check_kept_supply().is_ok()
    }

    /// Sums all entries now and then until `stop`: that is a walk over the whole state, on a thread of its own for which nobody waits.
    pub async fn watch(context: Arc<Context>, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(SUMMED);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut summed = None;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.changed() => break,
            }
            let head = context.chain.head();
            if summed.replace(head.state.height()) == Some(head.state.height()) {
                continue;
            }
            let law = context.clone();
            let sum = move || {
                lower_priority(NICENESS);
                law.law.broken.store(head.state.check_supply().is_err(), Ordering::Release);
            };
            if let Err(e) = std::thread::Builder::new().name("law".into()).spawn(sum) {
                tracing::warn!(error = %e, "the supply was not summed");
            }
        }
    }
}

/// A mark on requests that came with the operator's token.
#[derive(Clone, Copy)]
pub(super) struct Admitted;

pub(super) fn peers_view(peers: &[PeerInfo], neighbours: &Neighbours) -> PeersView {
    let view = |peer: &PeerInfo| PeerView {
        node: peer.node,
        peers: neighbours.get(&peer.node).map(|said| said.peers.clone()).unwrap_or_default(),
        address: peer.address.to_string(),
        rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
    };
    PeersView { peers: peers.iter().map(view).collect() }
}

fn sample_view(sample: &Sample) -> SampleView {
    SampleView {
        height: sample.height,
        time_ms: sample.time_ms,
        minted: Amount(sample.minted),
        burned: Amount(sample.burned),
        owned: Amount(sample.owned),
        rounds: sample.rounds,
        loss: (sample.loss > 0).then_some(sample.loss as f64 / 1e6),
        tokens_per_s: sample.speed,
        peers: sample.peers,
    }
}

impl Context {
    /// What `ailo_status` answers; the live line shows it too.
    pub fn status(&self) -> At<Status> {
        let head = self.chain.head();
        let state = &head.state;
        let params = &self.genesis.params;
        let progress = self.progress.borrow().clone();
        let round = state.round();
        let peers = count(self.net.peers().len());
        let highest = highest(&self.neighbours.borrow(), state.height(), self.chain.unshown());
        let mut notes = Vec::new();
        if params.ledger.confirmations < 10 {
            notes.push(format!(
                "transfers need {} confirmations here, not ten: a development network",
                params.ledger.confirmations
            ));
        }
        notes.extend(self.anchor.as_ref().and_then(|anchor| anchor.borrow().note()));
        let unprotected = match round.phase {
            Phase::Gather => (1..4).contains(&state.eligible().len()),
            _ => !round.protected,
        };
        if unprotected {
            notes.push(format!(
                "round {} is UNPROTECTED: with fewer than four participants nothing outvotes a liar",
                round.number
            ));
        }
        let validating = state.validators().power(&self.node) > 0;
        if self.validator && !validating {
            notes.push(crate::service::duties::waits_for(state, &self.node, &self.wallet));
        }
        if let Some(node) = state.node(&self.node)
            && node.wallet != self.wallet
        {
            notes.push(format!(
                "rewards go to {}: that is the node's wallet on the ledger, and `ailo-node bind` gives it another one",
                node.wallet
            ));
        }
        self.at(
            &head,
            Status {
                version: env!("CARGO_PKG_VERSION").into(),
                network: state.network(),
                network_name: self.genesis.name.clone(),
                node: self.node,
                wallet: self.wallet,
                validating,
                training: self.operator.controls().training,
                block_time_ms: state.time_ms(),
                block: state.last_block(),
                epoch: state.epoch(),
                sync: SyncStatus { highest, behind: highest.map(|highest| highest - state.height()) },
                peers,
                listen: self.net.listeners().iter().map(ToString::to_string).collect(),
                reachability: self.net.reachability().into(),
                confirmations: params.ledger.confirmations,
                validators: count(state.validators().0.len()),
                seats: count(state.seats(state.epoch()).map_or(0, |seats| seats.0.len())),
                round: RoundStatus {
                    number: round.number,
                    phase: round.phase.to_string(),
                    participants: count(round.participants.len()),
                    tolerates: round.f,
                    committed: count(round.contributions.len()),
                    unprotected,
                    step: if progress.round == round.number { progress.step } else { 0 },
                    steps: params.training.inner_steps,
                    tokens_per_s: progress.tokens_per_s,
                    loss: progress.loss,
                },
                model: self.model_status(&head),
                serving: self.serving(),
                account: account_view(&head, &self.wallet),
                supply: self.supply_view(state),
                notes,
            },
        )
    }

    /// `ailo_status`
    pub fn status_now(&self, _: NoParams) -> Answer<Status> {
        Ok(self.status())
    }

    /// Who serves what; of many, some.
    pub fn serving(&self) -> Vec<ServingView> {
        let view = |one: &Announce| ServingView {
            node: one.node,
            name: one.name.clone(),
            model: one.model,
            first: one.first,
            end: one.end,
            total: one.total,
            dtype: one.dtype.clone(),
            tokens_per_s: 1e6 / f64::from(one.token_us.max(1)),
            memory: one.memory,
            room: one.room,
            price: one.price,
        };
        let mut all: Vec<ServingView> = self.hub.known().all().map(view).collect();
        all.sort_by_key(|one| (one.node != self.node, one.model, one.first, one.end, one.node));
        all.truncate(MAX_SERVING);
        all
    }

    pub(super) fn supply_view(&self, state: &State) -> SupplyView {
        let supply = state.supply();
        SupplyView {
            minted: supply.minted,
            free: supply.free,
            pending: supply.pending,
            staked: supply.staked,
            unbonding: supply.unbonding,
            escrow: supply.escrow,
            burned: supply.burned,
            law_holds: self.law.holds(state),
        }
    }

    fn model_status(&self, head: &Head) -> ModelStatus {
        let model = head.state.model();
        let progress = self.progress.borrow();
        ModelStatus {
            rounds: model.steps,
            root: model.root,
            held_out_loss: model.loss.map(|micro| micro as f64 / 1e6),
            local_rounds: progress.local_rounds,
            local_root: progress.local_root,
            parameters: self.parameters,
        }
    }

    /// `ailo_model`
    pub fn model(&self, _: NoParams) -> Answer<ModelStatus> {
        let head = self.chain.head();
        Ok(self.at(&head, self.model_status(&head)))
    }

    /// `ailo_peers`
    pub fn peers(&self, _: NoParams) -> Answer<PeersView> {
        Ok(self.at(&self.chain.head(), peers_view(&self.net.peers(), &self.neighbours.borrow().clone())))
    }

    /// `ailo_series`
    pub fn samples(&self, params: PageParams) -> Answer<SeriesView> {
        let after = params.from().map_err(invalid)?;
        let limit = params.limit(MAX_SAMPLES);
        let all = self.series.all();
        let rest = all.iter().filter(|sample| after.is_none_or(|after| sample.height > after));
        let mut samples: Vec<SampleView> = rest.take(limit + 1).map(sample_view).collect();
        let more = samples.len() > limit;
        samples.truncate(limit);
        let next = samples.last().filter(|_| more).map(|last| last.height.to_string());
        Ok(self.at(&self.chain.head(), SeriesView { samples, next }))
    }

    /// Does what the operator asks for, and tells what is set then.
    pub(super) fn operate(
        &self,
        extensions: &Extensions,
        act: impl FnOnce(&Operator) -> Result<(), Failure>,
    ) -> Answer<Controls> {
        if extensions.get::<Admitted>().is_none() {
            return Err(Code::Unauthorized.says(format!(
                "this is for who operates the node: send the token that lies in {} on its machine, as 'Authorization: Bearer TOKEN'",
                self.operator.path().display()
            )));
        }
        act(&self.operator)?;
        Ok(self.at(&self.chain.head(), self.operator.controls()))
    }
}
