//! What becomes of a stage's wrong statement: who finds one keeps what shows it, or accuses its signer on the ledger; validators that
//! have the model read the text, and tell the ledger what they found (`docs/ledger.md`, *Evidence, challenges, jail*).

use super::{check, hub::Hub, model::Model};
use crate::{
    genesis::now_ms,
    service::{
        chain::{Chain, Head},
        models::Models,
    },
};
use ailo_ledger::{
    Body, Transaction,
    state::{Accusation, Rejection, State},
};
use ailo_protocol::{Hash, Keypair, NodeId, file::write_private, inference::proof::Charge};
use std::{
    collections::{BTreeMap, HashSet},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A statement's height may be so much behind this node's ledger, or ahead of it.
const BEHIND: u64 = 2000;
const AHEAD: u64 = 100;
/// A ledger whose last block is older than this is behind: heights ahead of it tell nothing.
const LAGS_MS: u64 = 120_000;
/// Files of charges, and accusations that wait for the ledger, at most.
const MAX_KEPT: usize = 64;
/// An accusation waits so long for a place, a height or coins.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// What the ledger has not taken is said again after this time, and a text that could not be read is read again.
const AGAIN: Duration = Duration::from_secs(10);

/// Where a node's word about stages goes.
pub struct Court {
    chain: Chain,
    key: Keypair,
    network: Hash,
    /// Signs accusations, if it is here.
    wallet: Option<Keypair>,
    /// Charges that were not brought forward.
    folder: PathBuf,
    /// Charges over texts that nobody minds showing: since when, and when each was last handed in.
    pending: Mutex<Vec<(Charge, Instant, Option<Instant>)>>,
}

/// Why a statement is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// It could not be shown any more, or not soon.
    Height,
    /// It is not signed by its node.
    Signature,
}

/// Where an accusation stands that is to be brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// It is before the judges, or covered by a verdict, or too late.
    Over,
    /// For its height, another accusation, a place, or coins.
    Waits,
    /// It may be handed in.
    Due,
    /// The wallet's key is not here, or too few validators have the model.
    Hopeless,
}

impl Court {
    /// For a node with this key; charges are kept in `folder`.
    pub fn new(chain: Chain, (key, network): (Keypair, Hash), wallet: Option<Keypair>, folder: PathBuf) -> Court {
        Court { chain, key, network, wallet, folder, pending: Mutex::default() }
    }

    /// The ledger's height.
    pub fn height(&self) -> u64 {
        self.chain.head().state.height()
    }

    /// Whether a statement of a node may be of this height: it can be shown now or soon, and no verdict covers it. Where this node's ledger is
    /// behind, it may be of any later one.
    pub fn is_now(&self, node: &NodeId, height: u64) -> bool {
        let head = self.chain.head();
        let (state, now) = (&head.state, head.state.height());
        let covered = state.node(node).is_some_and(|node| height <= node.convicted_height && node.convicted_height > 0);
        let lags = now_ms().saturating_sub(state.time_ms()) > LAGS_MS;
        height >= now.saturating_sub(BEHIND) && (lags || height <= now + AHEAD) && !covered
    }

    /// Whether the ledger knows a node: it has registered, which takes work.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.chain.head().state.node(node).is_some()
    }

    /// Nodes that are jailed now: they serve nobody.
    pub fn jailed(&self) -> HashSet<NodeId> {
        self.chain.head().state.nodes().filter(|(_, node)| node.jailed_until.is_some()).map(|(id, _)| id).collect()
    }

    /// Keeps a charge for whoever runs this node, because it shows a text.
    pub fn keep(&self, charge: &Charge) {
        let path = self.folder.join(format!("{}.json", charge.id()));
        let kept = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut kept: Vec<_> = std::fs::read_dir(&self.folder)?.flatten().map(|file| file.path()).collect();
            kept.sort_by_key(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok());
            for oldest in &kept[..kept.len().saturating_sub(MAX_KEPT - 1)] {
                std::fs::remove_file(oldest)?;
            }
            write_private(&path, &serde_json::to_vec_pretty(charge)?)
        };
        match kept() {
            Ok(()) => tracing::warn!(
                "`ailo-node accuse {}` shows it to the ledger, and with it the beginning of the text",
                path.display()
            ),
            Err(e) => tracing::warn!(error = %e, "what convicts it can't be kept"),
        }
    }

    /// Accuses a stage on the ledger, over a text that nobody minds showing, as soon as the ledger takes it.
    pub fn accuse(&self, charge: Charge) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() < MAX_KEPT {
            pending.push((charge, Instant::now(), None));
        }
    }

    /// Hands in an accusation that is due, one at a time, as each changes the wallet's number; what can't be handed in is kept.
    async fn bring(&self, hub: &Hub, state: &State) {
        let due = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.retain(|(charge, since, _)| match self.stands(hub, state, charge) {
                Stands::Over => false,
                Stands::Waits | Stands::Due if since.elapsed() < PATIENCE => true,
                Stands::Waits | Stands::Due | Stands::Hopeless => {
                    self.keep(charge);
                    false
                }
            });
            let rests = |sent: &Option<Instant>| sent.is_some_and(|sent| sent.elapsed() < AGAIN);
            let mut due = pending.iter_mut().filter(|(_, _, sent)| !rests(sent));
            let due = due.find(|(charge, ..)| self.stands(hub, state, charge) == Stands::Due);
            due.map(|(charge, _, sent)| {
                *sent = Some(Instant::now());
                charge.clone()
            })
        };
        let (Some(charge), Some(wallet)) = (due, &self.wallet) else { return };
        let node = charge.signed.node;
        let nonce = state.account(&state.account_of(wallet.public())).nonce;
        if self.chain.next_nonce(wallet.public()).await.ok() != Some(nonce) {
            return; // or it would take the place of what waits
        }
        let transaction = Transaction::sign(&self.network, wallet, nonce, now_ms(), Body::Accuse(charge));
        match self.chain.submit(transaction).await {
            Ok(_) => tracing::warn!(node = %node.short(), "accuses it on the ledger"),
            Err(e) => tracing::info!(node = %node.short(), error = %e, "the ledger takes no accusation of it yet"),
        }
    }

    fn stands(&self, hub: &Hub, state: &State, charge: &Charge) -> Stands {
        let (node, statement) = (charge.signed.node, &charge.signed.statement);
        match state.may_charge(&node, statement.height) {
            Err(Rejection::EvidenceFromFuture) => return Stands::Waits,
            Err(_) => return Stands::Over,
            Ok(()) => {}
        }
        let same = |open: &&Accusation| {
            open.charge.signed.node == node && open.charge.signed.statement.model == statement.model
        };
        if let Some(open) = state.accusations().find(same) {
            return if open.charge.id() == charge.id() { Stands::Over } else { Stands::Waits };
        }
        let Some(wallet) = self.wallet.as_ref().filter(|_| can_judge(state, hub, &statement.model)) else {
            return Stands::Hopeless;
        };
        let ledger = &state.params().ledger;
        let costs = state.next_accusation_bond().0.saturating_add(ledger.fee.0);
        let has = state.account(&state.account_of(wallet.public())).free.0;
        match has >= costs && state.accusations().count() < ledger.max_challenges as usize {
            true => Stands::Due,
            false => Stands::Waits,
        }
    }
}

/// Whether validators with more than 2/3 of the power serve a part of the model, and so have its files, or train it.
fn can_judge(state: &State, hub: &Hub, model: &Hash) -> bool {
    if own_roots(state).any(|root| Model::own_id(&root) == *model) {
        return true;
    }
    let known = hub.known();
    let serves = |node: &NodeId| {
        node == hub.node() || known.all().any(|announce| announce.node == *node && announce.model == *model)
    };
    let validators = state.validators();
    let power = validators.0.iter().filter(|validator| serves(&validator.node)).map(|validator| validator.power).sum();
    validators.is_quorum(power)
}

/// Roots of the states of the network's own model that all nodes still have.
fn own_roots(state: &State) -> impl Iterator<Item = Hash> {
    let kept = |number: u64| number >= state.oldest_challengeable() || state.is_open(number);
    let bases = state.past_rounds().filter(move |past| kept(past.number)).map(|past| past.base_root);
    std::iter::once(state.model().root).chain(bases)
}

/// Brings accusations forward, and reads those texts that wait for this validator's word and that it can read, one after another, the
/// shortest first, until `stop`.
pub async fn run(
    hub: Arc<Hub>,
    models: Models,
    served: watch::Receiver<Option<Arc<Model>>>,
    mut stop: watch::Receiver<bool>,
) {
    let Some(court) = &hub.court else { return };
    let (mut heads, mut tick) = (court.chain.heads(), tokio::time::interval(AGAIN));
    let mut found: BTreeMap<Hash, (Option<Hash>, Instant)> = BTreeMap::new();
    loop {
        let head = heads.borrow_and_update().clone();
        court.bring(&hub, &head.state).await;
        let owed = owed(&head, court.key.public());
        found.retain(|id, _| owed.iter().any(|charge| charge.id() == *id));
        for charge in owed {
            let (id, node) = (charge.id(), charge.signed.node);
            let known = found.get(&id).copied();
            if known.is_some_and(|(_, said)| said.elapsed() < AGAIN) {
                continue;
            }
            let result = match known.and_then(|(result, _)| result) {
                Some(result) => Some(result),
                None => {
                    let model = model_of(&models, &served, &charge.signed.statement.model);
                    let read = check::aside(move || {
                        let model = model()?;
                        let read = check::judge(&check::Here(&model), &charge);
                        read.inspect_err(|e| tracing::info!(error = %e, "an accused stage's text can't be read")).ok()
                    });
                    tokio::select! {
                        read = read => read.flatten(),
                        _ = stop.changed() => return,
                    }
                }
            };
            found.insert(id, (result, Instant::now()));
            let Some(result) = result else { continue };
            let body = Body::JudgeStage { node, charge: id, found: result };
            let transaction = Transaction::sign(&court.network, &court.key, 0, now_ms(), body);
            if let Err(e) = court.chain.submit(transaction).await {
                tracing::info!(error = %e, "the ledger does not take what an accused stage's text gave yet");
            }
        }
        tokio::select! {
            changed = heads.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
            _ = stop.changed() => return,
        }
    }
}

/// Charges that wait for this node's word.
fn owed(head: &Head, me: &NodeId) -> Vec<Charge> {
    let open = head.state.accusations();
    let mine = open.filter(|open| open.trial.power.power(me) > 0 && !open.trial.judged.contains(me));
    let mut mine: Vec<Charge> = mine.map(|open| open.charge.clone()).collect();
    mine.sort_by_key(|charge| charge.tokens.len());
    mine
}

/// What finds the model with this id here: what is served, or a state of the network's own.
pub(super) fn model_of(
    models: &Models,
    served: &watch::Receiver<Option<Arc<Model>>>,
    id: &Hash,
) -> impl FnOnce() -> Option<Arc<Model>> + Send + 'static {
    let here = served.borrow().clone().filter(|model| model.id == *id);
    let (root, models) = (models.roots().into_iter().find(|root| Model::own_id(root) == *id), models.clone());
    move || here.or_else(|| Model::own(*models.config(), models.get(&root?)?).ok().map(Arc::new))
}
