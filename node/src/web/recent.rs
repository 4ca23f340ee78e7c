//! The newest transactions of people, kept from page to page: each block is read once, and where nothing but routine happens, far back.

use super::explorer::ENTRIES;
use crate::service::chain::{Chain, Unreadable};
use ailo_ledger::{Body, Transaction};
use std::sync::{Mutex, PoisonError};

/// Blocks that are looked through for them, at most.
const BACK: u64 = 2000;

/// Transactions in blocks, the newest first, and the height up to which they are known.
#[derive(Default)]
pub(super) struct Recent(Mutex<(u64, Vec<(u64, Transaction)>)>);

impl Recent {
    /// The newest ones in blocks up to a height, with their blocks' heights.
    pub fn up_to(&self, chain: &Chain, height: u64) -> Result<Vec<(u64, Transaction)>, Unreadable> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, all) = &mut *kept;
        let from = (*known + 1).max(height.saturating_sub(BACK)).max(chain.first()).max(1);
        let mut news = Vec::new();
        for height in (from..=height).rev() {
            let Some((block, _)) = chain.block(height)? else { break };
            let people = block.transactions.into_iter().rev().filter(|each| !routine(&each.unsigned.body));
            news.extend(people.take(ENTRIES - news.len()).map(|each| (height, each)));
            if news.len() == ENTRIES {
                break;
            }
        }
        news.append(all);
        news.truncate(ENTRIES);
        (*known, *all) = (height.max(*known), news);
        Ok(all.clone())
    }
}

/// What nodes say all the time.
fn routine(body: &Body) -> bool {
    matches!(body, Body::Heartbeat { .. } | Body::Attest { .. } | Body::CommitLots { .. })
}
