//! Inference that is paid for: clients promise, and members claim. What passes between the two off the ledger is not
//! simulated; a member simply has the receipt. Every second client promises each member all that it has, as often as it
//! is asked. Honest members take no more than they may trust it with; whoever breaks the rules claims as much as there
//! is, the same again, and what no client could pay.

use super::world::World;
use crate::{Body, state::State, transaction::Claim};
use ailo_protocol::{Amount, Hash, Keypair, payment::Receipt};

impl World {
    /// What a member claims after the last block that it knows.
    pub fn claims(&self, i: usize, state: &State) -> Vec<Body> {
        let member = &self.members[i];
        let works_honestly = member.works_honestly();
        let due = |client: usize| (state.height() + i as u64 + client as u64).is_multiple_of(4);
        let asked = self.requesters().filter(|(client, _)| due(*client));
        let claims = asked.flat_map(|(client, key)| {
            let claim = self.claim(i, client, key, state, works_honestly);
            // The same once more, in the same block.
            let again = claim.filter(|_| !works_honestly);
            [claim, again].into_iter().flatten()
        });
        claims.map(|claim| Body::InferenceReceipt { claims: vec![claim] }).collect()
    }

    fn claim(&self, i: usize, client: usize, key: &Keypair, state: &State, honest: bool) -> Option<Claim> {
        let (node, wallet) = (self.members[i].id(), state.account_of(key.public()));
        let epoch = state.epoch();
        // A session for each epoch, so that each has one time at which its receipts expire.
        let expires_age = (epoch + 1) * state.params().ledger.epoch_ms + 5_000;
        let session = [client as u8; 16];
        let layers = self.members.len() as u32;
        let receipt = Receipt {
            payer: *key.public(),
            node,
            session,
            model: Hash([client as u8; 32]),
            first: i as u32,
            end: i as u32 + 1,
            total: layers,
            units: u64::MAX >> 24,
            price: state.market().price,
            expires_age,
            latency_ms: 1000 * i as u32,
        };
        let claimed = state.claimed(&wallet, session, expires_age, &node);
        let trusted = match honest {
            true => state.trusts(key.public(), &node, Amount::ZERO),
            false => state.drawable(&wallet, &node),
        };
        let unit = receipt.worth(1_000, receipt.price, &state.params().inference)?;
        let most = trusted.0.checked_mul(1_000)?.checked_div(unit.0)?;
        let greedy = client % 2 == 1;
        let fresh = if greedy { most } else { most.min(200) };
        let fresh = if !honest && state.height().is_multiple_of(3) { 2 * most + 1_000 } else { fresh };
        let units = claimed + fresh;
        let receipt = Receipt { units: if greedy { receipt.units } else { units }, ..receipt };
        (fresh > 0).then(|| Claim { units, receipt: receipt.sign(&self.network_id, key) })
    }
}
