//! What becomes of a stage's wrong statement: who finds one keeps what shows it, and may accuse its signer on the ledger; validators
//! that have the model read the text, and tell the ledger what they found (`docs/ledger.md`, *Inference*).

use super::{check, hub::Hub, model::Model};
use crate::{
    genesis::now_ms,
    service::{
        chain::{Chain, Head},
        models::Models,
    },
};
use ailo_ledger::{Body, Transaction, state::State};
use ailo_protocol::{Amount, Hash, Keypair, NodeId, inference::proof::Charge};
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A statement's height may be so much behind this node's ledger, or ahead of it.
const BEHIND: u64 = 2000;
const AHEAD: u64 = 100;
/// Files of charges, at most.
const MAX_KEPT: usize = 64;
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
}

impl Court {
    /// For a node with this key; charges are kept in `folder`.
    pub fn new(chain: Chain, (key, network): (Keypair, Hash), wallet: Option<Keypair>, folder: PathBuf) -> Court {
        Court { chain, key, network, wallet, folder }
    }

    /// The ledger's height.
    pub fn height(&self) -> u64 {
        self.chain.head().state.height()
    }

    /// Whether a statement of a node may be of this height: what it signed can then be shown, and no slash of before covers it.
    pub fn is_now(&self, node: &NodeId, height: u64) -> bool {
        let head = self.chain.head();
        let now = head.state.height();
        let covered = head.state.node(node).is_some_and(|node| height <= node.slashed_height);
        (now.saturating_sub(BEHIND)..=now + AHEAD).contains(&height) && !covered
    }

    /// Nodes that are jailed now: they serve nobody.
    pub fn jailed(&self) -> HashSet<NodeId> {
        self.chain.head().state.nodes().filter(|(_, node)| node.jailed_until.is_some()).map(|(id, _)| id).collect()
    }

    /// Keeps a charge for whoever runs this node, because it shows a text.
    pub fn keep(&self, charge: &Charge) {
        let path = self.folder.join(format!("{}.json", charge.id()));
        let kept = || {
            std::fs::create_dir_all(&self.folder)?;
            if std::fs::read_dir(&self.folder)?.count() >= MAX_KEPT {
                return Err(std::io::Error::other("too many charges are kept already"));
            }
            std::fs::write(&path, serde_json::to_vec_pretty(charge)?)
        };
        match kept() {
            Ok(()) => tracing::warn!(
                "`ailo-node accuse {}` shows it to the ledger, and with it the beginning of the text",
                path.display()
            ),
            Err(e) => tracing::warn!(error = %e, "what convicts it can't be kept"),
        }
    }

    /// Accuses a stage on the ledger, over a text that nobody minds showing, if enough validators can read it.
    pub async fn accuse(&self, hub: &Hub, charge: Charge) {
        let (head, model, node) = (self.chain.head(), charge.signed.statement.model, charge.signed.node);
        let Some(wallet) = self.wallet.as_ref().filter(|_| can_judge(&head.state, hub, &model)) else {
            return self.keep(&charge);
        };
        let account = head.state.account(&head.state.account_of(wallet.public()));
        let bond = head.state.next_accusation_bond();
        if account.free <= Amount(bond.0.saturating_add(head.state.params().ledger.fee.0)) {
            return self.keep(&charge);
        }
        let body = Body::Accuse(charge.clone());
        let transaction = Transaction::sign(&self.network, wallet, account.nonce, now_ms(), body);
        match self.chain.submit(transaction).await {
            Ok(_) => tracing::warn!(node = %node.short(), "accused it on the ledger"),
            Err(e) => {
                tracing::warn!(node = %node.short(), error = %e, "the ledger takes no accusation of it");
                self.keep(&charge);
            }
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

/// Roots of the states of the network's own model that nodes still have.
fn own_roots(state: &State) -> impl Iterator<Item = Hash> {
    std::iter::once(state.model().root).chain(state.past_rounds().map(|past| past.base_root))
}

/// Reads what is accused and this validator can read, one text after another, the shortest first, until `stop`.
pub async fn judge(
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
        let owed = owed(&head, court.key.public());
        found.retain(|id, _| owed.iter().any(|(owed, ..)| owed == id));
        for (id, node, charge) in owed {
            let known = found.get(&id).copied();
            if known.is_some_and(|(_, said)| said.elapsed() < AGAIN) {
                continue;
            }
            let result = match known.and_then(|(result, _)| result) {
                Some(result) => Some(result),
                None => {
                    let model = model_of(&head.state, &models, &served, &charge.signed.statement.model);
                    let read = move || {
                        check::wait_for_others();
                        let model = model()?;
                        check::judge(model.whole()?, &charge)
                            .inspect_err(|e| tracing::info!(error = %e, "an accused stage's text can't be read"))
                            .ok()
                    };
                    tokio::select! {
                        read = tokio::task::spawn_blocking(read) => read.ok().flatten(),
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
fn owed(head: &Head, me: &NodeId) -> Vec<(Hash, NodeId, Charge)> {
    let open = head.state.accusations();
    let mine = open.filter(|(_, open)| open.trial.power.power(me) > 0 && !open.trial.judged.contains(me));
    let mut mine: Vec<_> = mine.map(|(node, open)| (open.charge.id(), node, open.charge.clone())).collect();
    mine.sort_by_key(|(.., charge)| charge.tokens.len());
    mine
}

/// What finds the model with this id here: what is served, or a state of the network's own.
fn model_of(
    state: &State,
    models: &Models,
    served: &watch::Receiver<Option<Arc<Model>>>,
    id: &Hash,
) -> impl FnOnce() -> Option<Arc<Model>> + Send + 'static {
    let here = served.borrow().clone().filter(|model| model.id == *id);
    let (root, models) = (own_roots(state).find(|root| Model::own_id(root) == *id), models.clone());
    move || here.or_else(|| models.get(&root?).map(|held| Arc::new(Model::own(*models.config(), held))))
}
