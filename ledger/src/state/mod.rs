//! The deterministic state machine of the ledger. A [`State`] is a value: cheap to copy, equal on every node that
//! executed the same blocks, committed to by one root. An [`Executor`] makes the next state from a block's
//! transactions.
//!
//! ```text
//! begin    height + 1, age += min(gap, max_gap_ms), seed = H(seed || reveal), a new epoch's seats
//! apply    one transaction: all of it, or nothing and a Rejection
//! finish   expired transfers and unbonding, lapsed nodes, challenges and polls that are over, the next validators, the
//!          round's phases; then the root
//! ```
//!
//! Invariant at every height: `minted = free + pending + staked + unbonding + escrow + burned`, each the sum of its
//! entries. `docs/ledger.md` has the rules and who pays what.

mod accusations;
mod endow;
pub mod entry;
pub mod event;
mod evidence;
mod executor;
mod inference;
mod lots;
mod money;
mod nodes;
mod polls;
mod recovery;
pub mod rejection;
mod replays;
mod reports;
mod reward;
pub mod round;
mod rounds;
pub mod snapshot;
mod stakes;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transfers;
pub mod tree;

pub(crate) use endow::endow;
pub use entry::{
    Account, Accusation, Attestation, Chain, Challenge, Deposit, Entry, Inclusion, Iou, Key, LotChainLeft, Lots,
    Market, Model, Node, Outcome, PastRound, Poll, Replay, Report, Seat, Seats, Share, Supply, Transfer,
    TransferStatus, Validators,
};
pub use event::{AbortReason, Event, RewardKind};
pub use executor::{BlockContext, Executed, Executor, InvalidBlock, build_block, execute_block};
pub(crate) use money::Purse;
pub use polls::CHANGEABLE;
pub use rejection::Rejection;
pub use reward::median;
pub use round::{Commit, Phase, Round, Vote};

use crate::{
    Transaction,
    block::{Validator, ValidatorSet},
    verified::Verified,
};
use ailo_protocol::{
    Address, Amount, Genesis, Hash, NodeId, PublicKey, Username,
    canonical::{self, CodecError},
    keys::BadSignature,
    params::Params,
    presets,
};
use entry::{Changes, EpochStart, MAX_ENTRY_BYTES, MAX_KEY_BYTES, Owner, Record, Tip};
use imbl::{OrdMap, OrdSet};
use std::{cmp::Reverse, sync::Arc};
use tree::Tree;

/// The ledger after a block. Copies share what they have in common.
#[derive(Clone)]
pub struct State {
    constants: Arc<Constants>,
    /// The genesis' numbers with the changes that were voted in.
    params: Arc<Params>,
    entries: OrdMap<Key, Entry>,
    tree: Tree,
    index: Index,
    sums: Sums,
}

/// What never changes.
struct Constants {
    network: Hash,
    params: Arc<Params>,
    /// The founders that hold power until stakes take over.
    founding_validators: ValidatorSet,
    /// No part of the state, but needed wherever it is.
    verified: Verified,
}

/// Orders that follow from the entries, kept so that no block has to walk over all nodes.
#[derive(Clone, Default)]
struct Index {
    nodes: u32,
    /// Blocks with PENDING transfers.
    pending: OrdSet<u64>,
    /// Nodes that have not lapsed, by when they were last seen.
    seen: OrdSet<(u64, NodeId)>,
    /// Nodes with stake behind them, the largest first.
    staked: OrdSet<(Reverse<Amount>, NodeId)>,
    /// Nodes without work that are no founders, by stake and by age of registration: those that give way first.
    unproven: OrdSet<(Amount, u64, NodeId)>,
    /// The staked ones by wallet.
    staked_of: OrdSet<(Address, NodeId)>,
    /// What unbonds, by wallet.
    unbonding_of: OrdSet<(Address, u64, NodeId)>,
}

/// What the entries make in all; kept while they change, so that the supply law can be checked at every height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    free: u128,
    pending: u128,
    staked: u128,
    unbonding: u128,
    escrow: u128,
    owed: u128,
    /// The same as accounts have it, in their order: incoming, staked, unbonding, owes.
    accounts: [u128; 4],
}

impl Sums {
    /// The parts that `entry` makes; `change` is told of each.
    fn of(entry: &Entry, mut change: impl FnMut(fn(&mut Sums) -> &mut u128, Amount)) {
        match entry {
            Entry::Account(account) => {
                change(|s| &mut s.free, account.free);
                change(|s| &mut s.accounts[0], account.incoming);
                change(|s| &mut s.accounts[1], account.staked);
                change(|s| &mut s.accounts[2], account.unbonding);
                change(|s| &mut s.accounts[3], account.owes);
            }
            Entry::Transfer(transfer) if transfer.status == TransferStatus::Pending => {
                change(|s| &mut s.pending, transfer.amount);
                change(|s| &mut s.escrow, transfer.fee);
            }
            Entry::Node(node) => change(|s| &mut s.staked, node.stake),
            Entry::Unbonding(entry) => change(|s| &mut s.unbonding, entry.0),
            Entry::Report(report) => change(|s| &mut s.escrow, report.bond),
            Entry::Challenge(challenge) => change(|s| &mut s.escrow, challenge.bond),
            Entry::Accusation(accusation) => change(|s| &mut s.escrow, accusation.trial.bond),
            Entry::Poll(poll) => change(|s| &mut s.escrow, poll.deposit),
            Entry::Deposit(deposit) => change(|s| &mut s.escrow, deposit.amount),
            Entry::Iou(iou) => change(|s| &mut s.owed, iou.amount),
            _ => {}
        }
    }

    fn add(&mut self, entry: &Entry) {
        Sums::of(entry, |part, amount| *part(self) += u128::from(amount.0));
    }

    fn subtract(&mut self, entry: &Entry) {
        Sums::of(entry, |part, amount| *part(self) -= u128::from(amount.0));
    }

    /// Whether they are what `supply` says.
    fn check(&self, supply: &Supply) -> Result<(), SupplyViolation> {
        let burned = u128::from(supply.burned.0);
        let all = self.free + self.pending + self.staked + self.unbonding + self.escrow + burned;
        let totals = [
            ("minted", supply.minted, all),
            ("free", supply.free, self.free),
            ("pending", supply.pending, self.pending),
            ("staked", supply.staked, self.staked),
            ("unbonding", supply.unbonding, self.unbonding),
            ("escrow", supply.escrow, self.escrow),
        ];
        let totals = totals.map(|(what, total, entries)| (what, u128::from(total.0), entries));
        let accounts = [
            ("what accounts see coming in", self.accounts[0], self.pending),
            ("what accounts have staked", self.accounts[1], self.staked),
            ("what accounts have unbonding", self.accounts[2], self.unbonding),
            ("what accounts owe", self.accounts[3], self.owed),
        ];
        match totals.into_iter().chain(accounts).find(|(_, total, entries)| total != entries) {
            Some((what, total, entries)) => Err(SupplyViolation { what, total, entries }),
            None => Ok(()),
        }
    }
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
        state.set(Key::Validators, Validators { reference: set.clone(), set, latched: false, epoch: 0 });
        state.set(Key::EpochStart(0), EpochStart { height: 1, lot: seed, nodes: genesis.founders.len() as u32 });
        let price = params.inference.price_floor;
        state.set(Key::Market, Market { price, paid: Amount::ZERO, servers: 0, subsidy: Amount::ZERO });
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
                patience: 0,
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
        let missing = [Key::Chain, Key::Tip, Key::Supply, Key::Validators, Key::Model, Key::Round, Key::Market];
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
            params: Arc::new(genesis.params.clone()),
            founding_validators: ValidatorSet(founders),
            verified: Verified::default(),
        };
        State {
            params: constants.params.clone(),
            constants: Arc::new(constants),
            entries: OrdMap::new(),
            tree: Tree::default(),
            index: Index::default(),
            sums: Sums::default(),
        }
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

    /// Checks a transaction's signatures; the same bytes cost nothing the next time.
    pub fn verify(&self, transaction: &Transaction) -> Result<(), BadSignature> {
        self.constants.verified.check(&self.constants.network, transaction)
    }

    /// Network id.
    pub fn network(&self) -> Hash {
        self.constants.network
    }

    /// The network's numbers: the genesis', with the changes that were voted in.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Those changes, in order.
    pub fn changes(&self) -> &[String] {
        self.get::<Changes>(&Key::Changes).map_or(&[], |changes| &changes.0)
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

    /// The account that `key` signs for: its own, or since a recovery another one.
    pub fn account_of(&self, key: &PublicKey) -> Address {
        self.account_at(&Address::from(key))
    }

    /// Who has a user name.
    pub fn owner(&self, name: &Username) -> Option<Address> {
        self.get(&Key::Owner(*name)).map(|Owner(wallet)| *wallet)
    }

    /// What a wallet owes, the oldest first: for which transfer, and to whom.
    pub fn debts(&self, wallet: &Address) -> impl Iterator<Item = (Hash, &Iou)> {
        let range = Key::Iou(*wallet, 0, Hash::ZERO)..=Key::Iou(*wallet, u64::MAX, Hash([0xff; 32]));
        self.entries.range(range).filter_map(|(key, entry)| match key {
            Key::Iou(_, _, transfer) => Some((*transfer, Iou::of(entry)?)),
            _ => None,
        })
    }

    /// A closed round that is kept: its contributions can be challenged, or one of them is.
    pub fn past_round(&self, number: u64) -> Option<&Round> {
        self.past(number).map(|past| &past.round)
    }

    /// The same, with what it pays.
    pub fn past(&self, number: u64) -> Option<&PastRound> {
        self.get(&Key::PastRound(number))
    }

    /// The closed rounds that are kept, the oldest first.
    pub fn past_rounds(&self) -> impl DoubleEndedIterator<Item = &Round> {
        self.entries
            .range(Key::PastRound(0)..=Key::PastRound(u64::MAX))
            .filter_map(|(_, entry)| PastRound::of(entry).map(|past| &past.round))
    }

    /// The most that a past round that is not settled will mint.
    pub fn promised(&self, number: u64) -> Amount {
        let past = self.past(number).filter(|past| !past.settled);
        past.map_or(Amount::ZERO, |past| Amount(past.pot.0.saturating_add(past.bonus.0)))
    }

    /// The oldest round whose contributions can still be challenged.
    pub fn oldest_challengeable(&self) -> u64 {
        let newest = self.past_rounds().next_back().map_or(0, |round| round.number);
        (newest + 1).saturating_sub(self.params().ledger.challenge_rounds)
    }

    /// Whether a contribution to a closed round is, or was, challenged.
    pub fn is_challenged(&self, number: u64, maker: &NodeId) -> bool {
        self.past(number).is_some_and(|past| past.challenged.contains(maker))
    }

    /// Open challenges: the round and maker of the contribution.
    pub fn challenges(&self) -> impl Iterator<Item = (u64, NodeId, &Challenge)> {
        let range = Key::Challenge(0, FIRST_NODE)..=Key::Challenge(u64::MAX, LAST_NODE);
        self.entries.range(range).filter_map(|(key, entry)| match key {
            Key::Challenge(round, node) => Some((*round, *node, Challenge::of(entry)?)),
            _ => None,
        })
    }

    /// Proposals that are voted on, or approved and not yet in force, by number.
    pub fn polls(&self) -> impl Iterator<Item = (u64, &Poll)> {
        self.entries.range(Key::Poll(0)..=Key::Poll(u64::MAX)).filter_map(|(key, entry)| match key {
            Key::Poll(number) => Some((*number, Poll::of(entry)?)),
            _ => None,
        })
    }

    /// All accounts, in order of their addresses.
    pub fn accounts(&self) -> impl Iterator<Item = (Address, &Account)> {
        let range = self.entries.range(Key::Account(Address([0; 20]))..=Key::Account(Address([255; 20])));
        range.filter_map(|(key, entry)| match key {
            Key::Account(address) => Some((*address, Account::of(entry)?)),
            _ => None,
        })
    }

    /// A registered node.
    pub fn node(&self, node: &NodeId) -> Option<&Node> {
        self.get(&Key::Node(*node))
    }

    /// All registered nodes, in order of their keys.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes_after(None)
    }

    /// The same after one of them.
    pub fn nodes_after(&self, last: Option<NodeId>) -> impl Iterator<Item = (NodeId, &Node)> {
        let range = self.entries.range(Key::Node(last.unwrap_or(FIRST_NODE))..=Key::Node(LAST_NODE));
        range.filter_map(move |(key, entry)| match key {
            Key::Node(node) if Some(*node) != last => Some((*node, Node::of(entry)?)),
            _ => None,
        })
    }

    /// Number of registered nodes.
    pub fn node_count(&self) -> u32 {
        self.index.nodes
    }

    /// A wallet's nodes with stake behind them, and how much.
    pub fn stakes(&self, wallet: &Address) -> impl Iterator<Item = (NodeId, Amount)> {
        let range = (*wallet, FIRST_NODE)..=(*wallet, LAST_NODE);
        self.index.staked_of.range(range).filter_map(|(_, id)| self.node(id).map(|node| (*id, node.stake)))
    }

    /// A transfer that is PENDING or CONFIRMED. REFUNDED, REVERSED and FINAL ones are history: see the
    /// events.
    pub fn transfer(&self, id: &Hash) -> Option<&Transfer> {
        self.get(&Key::Transfer(*id))
    }

    /// The nodes whose attestations count for a transfer so far, in order; at most as many as it needs.
    pub fn confirmers(&self, id: &Hash) -> Vec<NodeId> {
        let Some(transfer) = self.transfer(id) else { return Vec::new() };
        match self.inclusion(transfer.height) {
            Some(inclusion) if transfer.status == TransferStatus::Pending => {
                inclusion.attested.iter().filter(|a| a.counts(id, transfer)).map(|a| a.node).collect()
            }
            _ => transfer.confirmers.to_vec(),
        }
    }

    /// Who has reported a transfer that has not ended.
    pub fn reports(&self, id: &Hash) -> impl Iterator<Item = (NodeId, &Report)> {
        self.entries.range(Key::Report(*id, FIRST_NODE)..=Key::Report(*id, LAST_NODE)).filter_map(|(key, entry)| {
            match key {
                Key::Report(_, node) => Some((*node, Report::of(entry)?)),
                _ => None,
            }
        })
    }

    /// Heights of the blocks that still hold PENDING transfers, ascending.
    pub fn pending_blocks(&self) -> impl Iterator<Item = u64> {
        self.index.pending.iter().copied()
    }

    /// The transfers of the block at `height` that have not ended.
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

    /// Sums every entry, and compares with the totals and with the sums that were kept while the entries changed.
    pub fn check_supply(&self) -> Result<(), SupplyViolation> {
        let mut sums = Sums::default();
        self.entries.values().for_each(|entry| sums.add(entry));
        sums.check(&self.supply())?;
        self.check_kept_supply()
    }

    /// The same by the kept sums alone: as cheap for a large state as for a small one.
    pub fn check_kept_supply(&self) -> Result<(), SupplyViolation> {
        self.sums.check(&self.supply())
    }

    fn get<T: Record>(&self, key: &Key) -> Option<&T> {
        self.entries.get(key).and_then(T::of)
    }

    /// An entry that genesis makes, restore demands, and nothing removes.
    fn singleton<T: Record>(&self, key: &Key) -> &T {
        self.get(key).expect("every state has its chain, tip, supply, validators, model, round and market")
    }

    fn set<T: Record>(&mut self, key: Key, record: T) {
        self.put(key, Some(record.into_entry()));
    }

    /// The only place where an entry changes; gives what was there.
    fn put(&mut self, key: Key, entry: Option<Entry>) -> Option<Entry> {
        let old = match &entry {
            Some(entry) => self.entries.insert(key, entry.clone()),
            None => self.entries.remove(&key),
        };
        if let Some(old) = &old {
            self.sums.subtract(old);
            self.index.forget(&key, old);
        }
        if let Some(new) = &entry {
            self.sums.add(new);
            self.index.note(&key, new);
        }
        if key == Key::Changes {
            let genesis = &self.constants.params;
            // Each change was tried before it was stored, so the result is sound.
            self.params = presets::change(genesis, self.changes()).map_or_else(|_| genesis.clone(), Arc::new);
        }
        old
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

impl Index {
    fn note(&mut self, key: &Key, entry: &Entry) {
        match (key, entry) {
            (Key::Node(id), Entry::Node(node)) => {
                self.nodes += 1;
                if !node.lapsed {
                    self.seen.insert((node.seen_age, *id));
                }
                if !node.founder && node.work.is_empty() {
                    self.unproven.insert((node.stake, node.registered_age, *id));
                }
                if node.stake > Amount::ZERO {
                    self.staked.insert((Reverse(node.stake), *id));
                    self.staked_of.insert((node.wallet, *id));
                }
            }
            (Key::Unbonding(due, wallet, node), _) => drop(self.unbonding_of.insert((*wallet, *due, *node))),
            (Key::Inclusion(height), Entry::Inclusion(inclusion)) if inclusion.pending > 0 => {
                self.pending.insert(*height);
            }
            _ => {}
        }
    }

    fn forget(&mut self, key: &Key, entry: &Entry) {
        match (key, entry) {
            (Key::Node(id), Entry::Node(node)) => {
                self.nodes -= 1;
                self.seen.remove(&(node.seen_age, *id));
                self.unproven.remove(&(node.stake, node.registered_age, *id));
                self.staked.remove(&(Reverse(node.stake), *id));
                self.staked_of.remove(&(node.wallet, *id));
            }
            (Key::Unbonding(due, wallet, node), _) => drop(self.unbonding_of.remove(&(*wallet, *due, *node))),
            (Key::Inclusion(height), _) => {
                self.pending.remove(height);
            }
            _ => {}
        }
    }
}

const FIRST_NODE: NodeId = PublicKey([0; 32]);
const LAST_NODE: NodeId = PublicKey([0xff; 32]);
