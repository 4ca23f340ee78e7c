//! The newest transactions of people. Those of the first page are kept, so that each block is read once for it; the pages after it are read anew,
//! each so far back at most.

use super::{Answer, Context, MAX_READ_BYTES, errors::invalid, params::*, types::*};
use crate::service::chain::{Chain, Unreadable};
use ailo_ledger::{Body, Transaction, store::MAX_PAGE};
use std::sync::{Mutex, PoisonError};

/// Blocks that are looked through for a page, at most.
const BACK: u64 = 2000;

/// The height of a block, and a place among its transactions.
type Place = (u64, usize);
/// Transactions, the newest first, and before which place there may be more.
type Found = (Vec<(Place, Transaction)>, Option<Place>);

/// The newest transactions, and the height up to which they are known.
#[derive(Default)]
pub struct Recent(Mutex<(u64, Found)>);

impl Recent {
    /// A page of the newest ones in blocks up to a height.
    fn up_to(&self, chain: &Chain, height: u64) -> Result<Found, Unreadable> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, (all, rest)) = &mut *kept;
        let lowest = chain.first().max(*known + 1);
        let (mut news, gap) = before((height, usize::MAX), lowest, MAX_PAGE, |height| chain.transactions(height))?;
        *rest = match gap {
            Some(_) => gap,
            None => {
                news.append(all);
                cut(&mut news, MAX_PAGE).or(*rest)
            }
        };
        (*known, *all) = (height.max(*known), news);
        Ok((all.clone(), *rest))
    }
}

impl Context {
    /// `ailo_recent`
    pub fn recent(&self, params: PageParams) -> Answer<RecentView> {
        let (head, chain) = (self.chain.head(), &self.chain);
        let (height, limit) = (head.state.height(), params.limit(MAX_PAGE));
        let (mut found, rest) = match params.place().map_err(invalid)? {
            None => self.recent.up_to(chain, height)?,
            Some(place) => {
                let place = place.min((height, usize::MAX));
                before(place, chain.first().max(1), limit, |height| chain.transactions(height))?
            }
        };
        let next = cut(&mut found, limit).or(rest).map(|(height, place)| format!("{height}-{place}"));
        let view = |((block_height, _), transaction): (Place, Transaction)| RecentTransaction {
            id: transaction.id(),
            block_height,
            transaction,
        };
        Ok(self.at(&head, RecentView { transactions: found.into_iter().map(view).collect(), next }))
    }
}

/// What people did before a place, in blocks from the height `lowest` on. `read` gives a block's transactions and how many bytes were read.
fn before(
    place: Place,
    lowest: u64,
    limit: usize,
    read: impl Fn(u64) -> Result<Option<(Vec<Transaction>, usize)>, Unreadable>,
) -> Result<Found, Unreadable> {
    let top = place.0.saturating_sub(u64::from(place.1 == 0));
    let (mut found, mut bytes) = (Vec::new(), 0);
    for height in (lowest..=top).rev() {
        let Some((transactions, length)) = read(height)? else { break };
        let all = transactions.into_iter().enumerate().map(|(i, each)| ((height, i), each));
        found.extend(all.rev().filter(|(at, each)| *at < place && !routine(&each.unsigned.body)));
        if let Some(rest) = cut(&mut found, limit) {
            return Ok((found, Some(rest)));
        }
        bytes += length;
        if height > lowest && (bytes >= MAX_READ_BYTES || top - height + 1 >= BACK) {
            return Ok((found, Some((height, 0))));
        }
    }
    Ok((found, None))
}

/// Leaves so many at most; gives the place before which the others are.
fn cut(found: &mut Vec<(Place, Transaction)>, limit: usize) -> Option<Place> {
    let more = found.len() > limit;
    found.truncate(limit);
    found.last().filter(|_| more).map(|(place, _)| *place)
}

/// What nodes say all the time.
fn routine(body: &Body) -> bool {
    matches!(body, Body::Heartbeat { .. } | Body::Attest { .. } | Body::CommitLots { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ailo_protocol::{Hash, Keypair};

    #[test]
    fn pages_lead_to_the_first_block_and_none_reads_without_end() {
        let sign = |body| Transaction::sign(&Hash([7; 32]), &Keypair::from_seed([1; 32]), 0, 1, body);
        let (person, node) =
            (sign(Body::Dispute { transfer: Hash([2; 32]) }), sign(Body::Attest { height: 1, except: vec![] }));
        let busy = [&person, &node, &person].map(Clone::clone);
        let read = |height: u64| Ok(Some((if height % 2 == 1 { busy.to_vec() } else { vec![] }, 1)));
        let (mut seen, mut next) = (Vec::new(), Some((9, usize::MAX)));
        while let Some(place) = next {
            let (page, rest) = before(place, 1, 3, read).unwrap();
            assert!((1..=3).contains(&page.len()) && page.iter().all(|(_, each)| *each == person));
            seen.extend(page.into_iter().map(|(at, _)| at));
            next = rest;
        }
        assert_eq!(seen, [9, 7, 5, 3, 1].map(|height| [(height, 2), (height, 0)]).concat());

        let long = |_| Ok(Some((vec![node.clone()], MAX_READ_BYTES)));
        assert_eq!(before((9, usize::MAX), 1, 3, long).unwrap(), (vec![], Some((9, 0))));
        assert_eq!(before((9, 0), 1, 3, long).unwrap(), (vec![], Some((8, 0))));
        assert_eq!(before((2, 0), 1, 3, long).unwrap(), (vec![], None));
        let idle = |_| Ok(Some((vec![], 1)));
        assert_eq!(before((9000, 0), 1, 3, idle).unwrap(), (vec![], Some((9000 - BACK, 0))));
    }
}
