//! What is asked of wallets and of nodes: accounts, stake, validators, votes on parameters.

use super::{
    Answer, Context, count,
    errors::{Code, invalid},
    params::*,
    types::*,
};
use crate::service::chain::Head;
use ailo_ledger::{
    block::Validator,
    state::{Iou, Node, State},
    store::MAX_PAGE,
};
use ailo_protocol::{Address, Amount, Hash, NodeId};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Wallets that are ranked, at most.
const RANKED: usize = 1000;
/// They are ranked anew after this time: all accounts are looked at.
const RANKED_FOR: Duration = Duration::from_secs(30);

/// A wallet's account.
pub fn account_view(head: &Head, address: &Address) -> AccountView {
    let address = head.state.account_at(address);
    let account = head.state.account(&address);
    let deposit = head.state.deposit(&address);
    let debt = |(transfer, iou): (Hash, &Iou)| DebtView { transfer, creditor: iou.creditor, amount: iou.amount };
    AccountView {
        address,
        free: account.free,
        pending: account.incoming,
        staked: account.staked,
        unbonding: account.unbonding,
        deposit: DepositView {
            amount: deposit.amount,
            leaving: deposit.leaving,
            free_in_ms: deposit.due_age.saturating_sub(head.state.age_ms()),
            short: deposit.short,
        },
        nonce: account.nonce,
        owes: account.owes,
        debts: head.state.debts(&address).take(MAX_PAGE).map(debt).collect(),
        stakes: head.state.stakes(&address).take(MAX_PAGE).map(|(node, amount)| StakeView { node, amount }).collect(),
        name: account.name,
        key: account.key,
        recoverable: account.recovery.is_some(),
        recoveries: account.recoveries,
    }
}

fn node_view(state: &State, id: NodeId, node: &Node) -> NodeView {
    NodeView {
        node: id,
        wallet: node.wallet,
        founder: node.founder,
        stake: node.stake,
        power: state.validators().power(&id),
        seated: state.seats(state.epoch()).is_some_and(|seats| seats.contains(&id)),
        trains: node.trains,
        class: node.class,
        seen_age: node.seen_age,
        lapsed: node.lapsed,
        up_ms: node.up_ms,
        clean: node.clean,
        quality_ppm: node.score_ppm,
        jailed_until: node.jailed_until,
        slashed_height: node.slashed_height,
        age_ms: state.age_ms(),
    }
}

/// The richest wallets, as they were a moment ago, and as they were before that: whoever began to read it then goes on.
#[derive(Default)]
pub struct Ranking {
    kept: Mutex<[Option<(Instant, Ranked)>; 2]>,
    /// Held by who makes it anew.
    making: Mutex<()>,
}

type Ranked = Arc<At<RichList>>;

/// The ranking at a head.
struct RichList {
    wallets: Vec<RichWallet>,
    minted: Amount,
}

impl Ranking {
    fn kept(&self) -> MutexGuard<'_, [Option<(Instant, Ranked)>; 2]> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of a height, while it is kept.
    fn of(&self, height: u64) -> Option<Ranked> {
        self.kept().iter().flatten().map(|(_, ranking)| ranking).find(|ranking| ranking.height == height).cloned()
    }

    /// The newest. One of those who find it old makes it anew, while the others have the old one; for the very first all wait.
    fn newest(&self, make: impl FnOnce() -> At<RichList>) -> Ranked {
        let newest = self.kept()[0].clone();
        let _making = match (&newest, self.making.try_lock()) {
            (Some((made, ranking)), _) if made.elapsed() < RANKED_FOR => return ranking.clone(),
            (_, Ok(making)) => making,
            (Some((_, ranking)), Err(_)) => return ranking.clone(),
            (None, Err(_)) => {
                let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((_, ranking)) = &self.kept()[0] {
                    return ranking.clone();
                }
                making
            }
        };
        let ranking = Arc::new(make());
        let mut kept = self.kept();
        // Of two at one height only the newer can be asked for.
        if kept[0].as_ref().is_some_and(|(_, before)| before.height != ranking.height) {
            kept.swap(0, 1);
        }
        kept[0] = Some((Instant::now(), ranking.clone()));
        ranking
    }
}

/// The richest of all accounts, the richest first; of equals the first by address.
fn rank(state: &State) -> Vec<RichWallet> {
    let mut richest: BinaryHeap<Reverse<(u64, Reverse<Address>)>> = BinaryHeap::with_capacity(RANKED + 1);
    for (address, account) in state.accounts() {
        let owned = account.free.0.saturating_add(account.staked.0).saturating_add(account.unbonding.0);
        richest.push(Reverse((owned, Reverse(address))));
        if richest.len() > RANKED {
            richest.pop();
        }
    }
    let wallet = |Reverse((owned, Reverse(address)))| RichWallet { address, owned: Amount(owned) };
    richest.into_sorted_vec().into_iter().map(wallet).collect()
}

impl Context {
    /// `ailo_account`
    pub fn account(&self, AccountParams { address }: AccountParams) -> Answer<AccountView> {
        let head = self.chain.head();
        Ok(self.at(&head, account_view(&head, &address)))
    }

    /// `ailo_nextNonce`
    pub async fn next_nonce(self: Arc<Self>, KeyParams { key }: KeyParams) -> Answer<NextNonce> {
        let nonce = self.chain.next_nonce(&key).await?;
        Ok(self.at(&self.chain.head(), NextNonce { nonce }))
    }

    /// `ailo_owner`
    pub fn owner(&self, OwnerParams { name }: OwnerParams) -> Answer<AccountView> {
        let head = self.chain.head();
        let nobody = || Code::NotFound.says(format!("nobody has the user name {name}"));
        let owner = head.state.owner(&name).ok_or_else(nobody)?;
        Ok(self.at(&head, account_view(&head, &owner)))
    }

    /// `ailo_richList`
    pub fn rich_list(&self, params: PageParams) -> Answer<RichView> {
        let make = || {
            let head = self.chain.head();
            let minted = head.state.supply().minted;
            self.at(&head, RichList { wallets: rank(&head.state), minted })
        };
        let gone = || Code::NotFound.says("this ranking is no longer kept: begin with the first page");
        let (ranking, start) = match params.place().map_err(invalid)? {
            Some((height, start)) => (self.ranking.of(height).ok_or_else(gone)?, start),
            None => (self.ranking.newest(make), 0),
        };
        let RichList { wallets: all, minted } = &ranking.value;
        let wallets: Vec<RichWallet> = all.iter().skip(start).take(params.limit(MAX_PAGE)).cloned().collect();
        let end = start.saturating_add(wallets.len());
        let next = (end < all.len() && !wallets.is_empty()).then(|| format!("{}-{end}", ranking.height));
        let value = RichView { first: count(start.saturating_add(1)), wallets, minted: *minted, next };
        Ok(At { height: ranking.height, state_root: ranking.state_root, value })
    }

    /// `ailo_node`
    pub fn node(&self, NodeParams { node }: NodeParams) -> Answer<NodeView> {
        let head = self.chain.head();
        let unknown = || Code::NotFound.says("the ledger has no node with this key");
        let view = node_view(&head.state, node, head.state.node(&node).ok_or_else(unknown)?);
        Ok(self.at(&head, view))
    }

    /// `ailo_nodes`
    pub fn nodes(&self, params: PageParams) -> Answer<NodesView> {
        let after = params.after_node().map_err(invalid)?;
        let limit = params.limit(MAX_PAGE);
        let head = self.chain.head();
        let state = &head.state;
        let mut nodes: Vec<NodeView> =
            state.nodes_after(after).take(limit + 1).map(|(id, node)| node_view(state, id, node)).collect();
        let more = nodes.len() > limit;
        nodes.truncate(limit);
        let next = nodes.last().filter(|_| more).map(|last| last.node.to_string());
        Ok(self.at(&head, NodesView { count: state.node_count(), nodes, next }))
    }

    /// `ailo_validators`
    pub fn validators(&self, _: NoParams) -> Answer<ValidatorsView> {
        let head = self.chain.head();
        let state = &head.state;
        let set = state.validators();
        let view = |validator: &Validator| {
            let node = state.node(&validator.node);
            ValidatorView {
                node: validator.node,
                wallet: node.map(|node| node.wallet),
                power: validator.power,
                stake: node.map(|node| node.stake).unwrap_or_default(),
                jailed_until: node.and_then(|node| node.jailed_until),
                lots: state.lot_due(&validator.node).map(|due| due.left),
                up_ms: node.map_or(0, |node| node.up_ms),
                slashed_height: node.map_or(0, |node| node.slashed_height),
            }
        };
        let in_jail = state.nodes().filter(|(id, node)| node.jailed_until.is_some() && set.power(id) == 0);
        let view = ValidatorsView {
            founders: !state.founders_are_latched_out(),
            total_power: set.total_power(),
            stake_to_validate: state.stake_to_validate(),
            age_ms: state.age_ms(),
            validators: set.0.iter().map(view).collect(),
            jailed: in_jail.take(MAX_PAGE).map(|(id, node)| node_view(state, id, node)).collect(),
        };
        Ok(self.at(&head, view))
    }

    /// `ailo_proposals`
    pub fn proposals(&self, _: NoParams) -> Answer<ProposalsView> {
        let head = self.chain.head();
        let proposals = head.state.polls().map(|(number, poll)| ProposalView { number, poll: poll.clone() });
        let supply = head.state.supply();
        let view = ProposalsView {
            proposals: proposals.collect(),
            changed: head.state.changes().to_vec(),
            staked: Amount(supply.staked.0.saturating_add(supply.unbonding.0)),
            quorum_ppm: head.state.params().ledger.poll_quorum_ppm,
            age_ms: head.state.age_ms(),
        };
        Ok(self.at(&head, view))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(height: u64) -> At<RichList> {
        At { height, state_root: Hash([0; 32]), value: RichList { wallets: Vec::new(), minted: Amount(height) } }
    }

    #[test]
    fn who_pages_through_a_ranking_goes_on_in_it_until_the_next_but_one() {
        let ranking = Ranking::default();
        let age = || {
            let old = Instant::now().checked_sub(RANKED_FOR).unwrap();
            ranking.kept()[0].iter_mut().for_each(|(made, _)| *made = old);
        };
        assert_eq!(ranking.newest(|| at(5)).height, 5);
        assert_eq!(ranking.newest(|| at(6)).height, 5, "it is new enough");
        age();
        {
            let _made = ranking.making.lock().unwrap();
            assert_eq!(ranking.newest(|| at(6)).height, 5, "who comes while it is made has the old one");
        }
        assert_eq!(ranking.newest(|| at(6)).height, 6);
        assert_eq!(ranking.of(5).map(|of| of.value.minted), Some(Amount(5)));
        age();
        assert_eq!(ranking.newest(|| at(7)).height, 7);
        assert!(ranking.of(5).is_none() && ranking.of(6).is_some() && ranking.of(7).is_some());
    }
}
