//! The deterministic state machine of the ledger. A [`State`] is a value: cheap to copy, equal on every node that
//! executed the same blocks, committed to by one root. An [`Executor`] makes the next state from a block's
//! transactions.
//!
//! ```text
//! begin    height + 1, age += min(gap, max_gap_ms), seed = H(seed || parent), a new epoch's seats
//! apply    one transaction: all of it, or nothing and a Rejection
//! finish   expired transfers and unbonding, lapsed nodes, the next validators, the round's phases; then the root
//! ```
//!
//! Invariant at every height: `minted = free + pending + staked + unbonding + escrow + burned`, each the sum of its
//! entries. `docs/ledger.md` has the rules and who pays what.

mod endow;
pub mod entry;
pub mod event;
mod executor;
mod money;
mod nodes;
pub mod rejection;
mod reward;
pub mod round;
mod rounds;
mod stakes;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transfers;
pub mod tree;

pub(crate) use endow::endow;
pub use entry::{
    Account, Chain, Entry, Inclusion, Key, Model, Node, Seat, Seats, Supply, Transfer, TransferStatus, Validators,
};
pub use event::{AbortReason, Event, RewardKind};
pub use executor::{BlockContext, Executed, Executor, InvalidBlock, build_block, execute_block};
pub use rejection::Rejection;
pub use round::{Commit, Phase, Round, Vote};

use crate::block::{Validator, ValidatorSet};
use ailo_protocol::{
    Address, Amount, Genesis, Hash, NodeId,
    canonical::{self, CodecError},
    params::Params,
};
use entry::{MAX_ENTRY_BYTES, MAX_KEY_BYTES, Record, Stake, Tip};
use imbl::{OrdMap, OrdSet};
use std::{cmp::Reverse, sync::Arc};
use tree::Tree;

/// The ledger after a block. Copies share what they have in common.
#[derive(Clone)]
pub struct State {
    constants: Arc<Constants>,
    entries: OrdMap<Key, Entry>,
    tree: Tree,
    index: Index,
}

/// What never changes.
struct Constants {
    network: Hash,
    params: Params,
    /// The founders that hold power until stakes take over.
    founding_validators: ValidatorSet,
}

/// Orders that follow from the entries, kept so that no block has to walk over all nodes.
#[derive(Clone, Default)]
struct Index {
    nodes: u32,
    /// Nodes that have not lapsed, by when they were last seen.
    seen: OrdSet<(u64, NodeId)>,
    /// Nodes with stake behind them, the largest first.
    staked: OrdSet<(Reverse<Amount>, NodeId)>,
}

/// Why stored entries are not a state; the index has to be rebuilt from the block log.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Bytes that are no entry.
    #[error("a stored entry is damaged: {0}")]
    Codec(#[from] CodecError),
    /// An entry under the key of another kind.
    #[error("the entry stored at {0:?} is of another kind")]
    Misplaced(Key),
    /// Something every state has.
    #[error("the stored entries lack {0:?}")]
    Missing(Key),
}

/// The totals do not add up: a defect of the state machine itself.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the supply law is broken: {what} is {total}, its entries make {entries}")]
pub struct SupplyViolation {
    /// Which total.
    pub what: &'static str,
    /// As kept.
    pub total: u128,
    /// As recomputed.
    pub entries: u128,
}

impl State {
    /// The state before the first block: founders are registered and seated, nothing is minted, round 0 gathers.
    pub fn genesis(genesis: &Genesis) -> State {
        let params = &genesis.params;
        let mut state = State::empty(genesis);
        let seed = Hash::of_value(ailo_protocol::hash::Domain::Lot, &(genesis.id(), genesis.seed));
        state.set(Key::Chain, Chain { height: 0, time_ms: genesis.time_ms, age: 0, parent: Hash::ZERO, seed });
        state.set(Key::Tip, Tip(Hash::ZERO));
        state.set(Key::Supply, Supply::default());
        let set = state.constants.founding_validators.clone();
        state.set(Key::Validators, Validators { set, latched: false });
        state.set(
            Key::Model,
            Model {
                root: genesis.model_root,
                steps: 0,
                loss: None,
                best_loss: None,
                bonus_loss: None,
                bonus_epoch: None,
                minted_epoch: 0,
                minted: Amount::ZERO,
                train_ms: params.round.max_train_ms,
            },
        );
        state.set(Key::Round, Round::gathering(0, genesis.model_root, 0, params.round.open_wait_ms));
        let mut seats = Vec::new();
        for founder in &genesis.founders {
            state.set(Key::Node(founder.node), Node::new(founder.wallet, true, 0));
            seats.push(Seat { node: founder.node, wallet: founder.wallet });
        }
        seats.sort_by_key(|seat| seat.node);
        state.set(Key::Seats(0), Seats(seats));
        state.commit(state.entries.keys().copied().collect::<Vec<_>>());
        state
    }

    /// The state that these entries (see [`State::entries`]) came from.
    pub fn restore(
        genesis: &Genesis,
        entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<State, RestoreError> {
        let mut state = State::empty(genesis);
        let mut keys = Vec::new();
        for (key, entry) in entries {
            let key: Key = canonical::decode(&key, MAX_KEY_BYTES)?;
            let entry: Entry = canonical::decode(&entry, MAX_ENTRY_BYTES)?;
            if !entry.belongs_at(&key) {
                return Err(RestoreError::Misplaced(key));
            }
            state.put(key, Some(entry));
            keys.push(key);
        }
        let missing = [Key::Chain, Key::Tip, Key::Supply, Key::Validators, Key::Model, Key::Round];
        if let Some(missing) = missing.into_iter().find(|key| !state.entries.contains_key(key)) {
            return Err(RestoreError::Missing(missing));
        }
        state.commit(keys);
        Ok(state)
    }

    fn empty(genesis: &Genesis) -> State {
        let founders = genesis.founders.iter().filter(|f| f.validator);
        let mut founders: Vec<Validator> = founders.map(|f| Validator { node: f.node, power: 1 }).collect();
        founders.sort_by_key(|validator| validator.node);
        let constants = Constants {
            network: genesis.id(),
            params: genesis.params.clone(),
            founding_validators: ValidatorSet(founders),
        };
        State { constants: Arc::new(constants), entries: OrdMap::new(), tree: Tree::default(), index: Index::default() }
    }

    /// All entries as canonical bytes of key and entry, for an index to keep.
    pub fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.entries.iter().map(|(key, entry)| (canonical::encode(key), canonical::encode(entry)))
    }

    /// What a header commits to: every entry but the tip.
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// The entry at `key` with a proof of it, or of its absence, against [`State::root`].
    pub fn prove(&self, key: &Key) -> (Option<&Entry>, tree::Proof) {
        (self.entries.get(key), self.tree.prove(&tree::key_hash(&canonical::encode(key))))
    }

    /// Network id.
    pub fn network(&self) -> Hash {
        self.constants.network
    }

    /// The network's numbers.
    pub fn params(&self) -> &Params {
        &self.constants.params
    }

    /// Height, time, age and lot.
    pub fn chain(&self) -> &Chain {
        self.singleton(&Key::Chain)
    }

    /// Height of the last block; 0 at genesis.
    pub fn height(&self) -> u64 {
        self.chain().height
    }

    /// Time of the last block, milliseconds since 1970 (UTC).
    pub fn time_ms(&self) -> u64 {
        self.chain().time_ms
    }

    /// Ledger age, in milliseconds.
    pub fn age_ms(&self) -> u64 {
        self.chain().age
    }

    /// The epoch: ledger age in units of `epoch_ms`.
    pub fn epoch(&self) -> u64 {
        self.age_ms() / self.params().ledger.epoch_ms
    }

    /// Seed of the lots drawn in the last block.
    pub fn seed(&self) -> Hash {
        self.chain().seed
    }

    /// Id of the block that the state came from; zero at genesis and before [`Executed::seal`].
    pub fn last_block(&self) -> Hash {
        self.singleton::<Tip>(&Key::Tip).0
    }

    /// The validators that decide the next height.
    pub fn validators(&self) -> &ValidatorSet {
        &self.singleton::<Validators>(&Key::Validators).set
    }

    /// Whether the founders have handed over to the staked validators.
    pub fn founders_are_latched_out(&self) -> bool {
        self.singleton::<Validators>(&Key::Validators).latched
    }

    /// A wallet's account; all zero for one that the ledger has not seen.
    pub fn account(&self, wallet: &Address) -> Account {
        self.get(&Key::Account(*wallet)).cloned().unwrap_or_default()
    }

    /// A registered node.
    pub fn node(&self, node: &NodeId) -> Option<&Node> {
        self.get(&Key::Node(*node))
    }

    /// All registered nodes, in order of their keys.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let range = self.entries.range(Key::Node(FIRST_NODE)..=Key::Node(LAST_NODE));
        range.filter_map(|(key, entry)| match key {
            Key::Node(node) => Some((*node, Node::of(entry)?)),
            _ => None,
        })
    }

    /// Number of registered nodes.
    pub fn node_count(&self) -> u32 {
        self.index.nodes
    }

    /// Coins of `wallet` behind `node`.
    pub fn stake(&self, wallet: &Address, node: &NodeId) -> Amount {
        self.get(&Key::Stake(*wallet, *node)).map_or(Amount::ZERO, |Stake(amount)| *amount)
    }

    /// A transfer that is PENDING or CONFIRMED. REFUNDED and FINAL ones are history: see the events.
    pub fn transfer(&self, id: &Hash) -> Option<&Transfer> {
        self.get(&Key::Transfer(*id))
    }

    /// Heights of the blocks that still hold PENDING transfers, ascending.
    pub fn pending_blocks(&self) -> impl Iterator<Item = u64> {
        self.entries.range(Key::Inclusion(0)..=Key::Inclusion(u64::MAX)).filter_map(|(key, _)| match key {
            Key::Inclusion(height) => Some(*height),
            _ => None,
        })
    }

    /// The PENDING transfers of the block at `height`.
    pub fn inclusion(&self, height: u64) -> Option<&Inclusion> {
        self.get(&Key::Inclusion(height))
    }

    /// The snapshot of the seats of `epoch`; `None` when it is no longer kept.
    pub fn seats(&self, epoch: u64) -> Option<&Seats> {
        let (_, entry) = self.entries.range(Key::Seats(0)..=Key::Seats(epoch)).next_back()?;
        Seats::of(entry)
    }

    /// The open round.
    pub fn round(&self) -> &Round {
        self.singleton(&Key::Round)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.singleton(&Key::Model)
    }

    /// Where every coin is.
    pub fn supply(&self) -> Supply {
        *self.singleton(&Key::Supply)
    }

    /// Sums every entry and compares with the totals.
    pub fn check_supply(&self) -> Result<(), SupplyViolation> {
        let units = |amount: Amount| u128::from(amount.0);
        let (mut free, mut pending, mut staked, mut unbonding, mut escrow) = (0, 0, 0, 0, 0);
        let (mut behind_nodes, mut accounts) = (0, [0; 3]);
        for entry in self.entries.values() {
            match entry {
                Entry::Account(account) => {
                    free += units(account.free);
                    for (sum, part) in accounts.iter_mut().zip([account.incoming, account.staked, account.unbonding]) {
                        *sum += units(part);
                    }
                }
                Entry::Transfer(transfer) if transfer.status == TransferStatus::Pending => {
                    pending += units(transfer.amount);
                    escrow += units(transfer.fee);
                }
                Entry::Stake(stake) => staked += units(stake.0),
                Entry::Unbonding(entry) => unbonding += units(entry.0),
                Entry::Node(node) => behind_nodes += units(node.stake),
                _ => {}
            }
        }
        let supply = self.supply();
        let checks = [
            ("minted", supply.minted, free + pending + staked + unbonding + escrow + units(supply.burned)),
            ("free", supply.free, free),
            ("pending", supply.pending, pending),
            ("staked", supply.staked, staked),
            ("unbonding", supply.unbonding, unbonding),
            ("escrow", supply.escrow, escrow),
            ("the stake behind nodes", supply.staked, behind_nodes),
            ("what accounts see coming in", supply.pending, accounts[0]),
            ("what accounts have staked", supply.staked, accounts[1]),
            ("what accounts have unbonding", supply.unbonding, accounts[2]),
        ];
        match checks.into_iter().find(|(_, total, entries)| units(*total) != *entries) {
            Some((what, total, entries)) => Err(SupplyViolation { what, total: units(total), entries }),
            None => Ok(()),
        }
    }

    fn get<T: Record>(&self, key: &Key) -> Option<&T> {
        self.entries.get(key).and_then(T::of)
    }

    /// An entry that genesis makes, restore demands, and nothing removes.
    fn singleton<T: Record>(&self, key: &Key) -> &T {
        self.get(key).expect("every state has its chain, tip, supply, validators, model and round")
    }

    fn set<T: Record>(&mut self, key: Key, record: T) {
        self.put(key, Some(record.into_entry()));
    }

    /// The only place where an entry changes.
    fn put(&mut self, key: Key, entry: Option<Entry>) {
        let index = &mut self.index;
        if let (Key::Node(id), Some(Entry::Node(node))) = (key, self.entries.get(&key)) {
            index.nodes -= 1;
            index.seen.remove(&(node.seen_age, id));
            index.staked.remove(&(Reverse(node.stake), id));
        }
        if let (Key::Node(id), Some(Entry::Node(node))) = (key, &entry) {
            index.nodes += 1;
            if !node.lapsed {
                index.seen.insert((node.seen_age, id));
            }
            if node.stake > Amount::ZERO {
                index.staked.insert((Reverse(node.stake), id));
            }
        }
        match entry {
            Some(entry) => drop(self.entries.insert(key, entry)),
            None => drop(self.entries.remove(&key)),
        }
    }

    /// Brings the tree up to the entries at `keys`; gives those entries as canonical bytes.
    fn commit(&mut self, keys: Vec<Key>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let bytes = |key: &Key| (canonical::encode(key), self.entries.get(key).map(canonical::encode));
        let (mut changes, mut writes) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for key in keys {
            let (key_bytes, entry_bytes) = bytes(&key);
            if key != Key::Tip {
                changes.push((tree::key_hash(&key_bytes), entry_bytes.as_deref().map(tree::value_hash)));
            }
            writes.push((key_bytes, entry_bytes));
        }
        self.tree = self.tree.update(changes);
        writes
    }
}

const FIRST_NODE: NodeId = ailo_protocol::PublicKey([0; 32]);
const LAST_NODE: NodeId = ailo_protocol::PublicKey([0xff; 32]);
