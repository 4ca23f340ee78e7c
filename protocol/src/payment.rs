//! Payment for inference: the receipt that a requester signs for a stage of its session, and the arithmetic of what the
//! stage is paid for it, of the top-up, of a node's part of a deposit, and of the market price. Pure: the ledger pays by
//! it, and who asks or serves reckons by the same. `docs/ledger.md` (*Inference*) has the rules.

use crate::{
    Amount, Hash, Keypair, NodeId, PublicKey, Signature,
    amount::PPM,
    canonical::{Decode, Encode},
    inference::SessionId,
    keys::{BadSignature, signing_bytes},
    params::InferenceParams,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Layers of a model, at most.
pub const MAX_LAYERS: u32 = 512;

/// "So much this node may have of my deposit for this session": a cumulative promise, worth nothing beyond what the node
/// has claimed of it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The key that signs, for the wallet that it signs for on the ledger.
    pub payer: PublicKey,
    /// Who served.
    pub node: NodeId,
    /// What is counted: a text, or all texts of the requester's with this node, as it likes.
    pub session: SessionId,
    /// The model.
    pub model: Hash,
    /// Layers first .. end of `total`.
    pub first: u32,
    /// See `first`.
    pub end: u32,
    /// See `first`.
    pub total: u32,
    /// Units of `unit_tokens` positions, since the session's first.
    pub units: u64,
    /// Price of a unit through all layers.
    pub price: Amount,
    /// Ledger age at which it is worth nothing any more. One session has one: with another the count begins anew.
    pub expires_age: u64,
    /// From request to first token, as the requester saw it.
    pub latency_ms: u32,
}

/// A receipt with its requester's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct SignedReceipt {
    /// What is promised.
    pub receipt: Receipt,
    /// Over the network id and the receipt.
    pub signature: Signature,
}

impl SignedReceipt {
    /// Checks the signature for the network `network`.
    pub fn verify(&self, network: &Hash) -> Result<(), BadSignature> {
        let Receipt { payer, .. } = self.receipt;
        payer.verify(&signing_bytes(network, "inference receipt", &self.receipt), &self.signature)
    }
}

impl Receipt {
    /// Signs it for the network `network`; `key` is the payer's.
    pub fn sign(self, network: &Hash, key: &Keypair) -> SignedReceipt {
        let signature = key.sign(&signing_bytes(network, "inference receipt", &self));
        SignedReceipt { receipt: self, signature }
    }

    /// Whether it names layers of a model.
    pub fn is_sound(&self) -> bool {
        self.first < self.end && self.end <= self.total && self.total <= MAX_LAYERS
    }

    /// The part of `units` at `price` that is this stage's: `first_ppm` for the first layer, `last_ppm` for the last one, and of
    /// the rest as much as it has layers. Rounded down: what is over stays with the requester.
    pub fn worth(&self, units: u64, price: Amount, params: &InferenceParams) -> Option<Amount> {
        if !self.is_sound() {
            return None;
        }
        let first = if self.first == 0 { params.first_ppm } else { 0 };
        let last = if self.end == self.total { params.last_ppm } else { 0 };
        let rest = PPM.checked_sub(params.first_ppm)?.checked_sub(params.last_ppm)?;
        let [total, layers] = [self.total, self.end - self.first].map(u128::from);
        let share = u128::from(first + last) * total + u128::from(rest) * layers;
        let whole = u128::from(price.0) * u128::from(units);
        let part = whole.checked_mul(share)? / (u128::from(PPM) * total);
        u64::try_from(part).ok().map(Amount)
    }
}

/// How a claim is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Out of the deposit, to the node's wallet.
    pub paid: Amount,
    /// Out of the deposit, to nobody.
    pub burned: Amount,
    /// Made anew for the node's wallet, within a share of what is burned.
    pub top_up: Amount,
    /// Made beyond that, where the network subsidises.
    pub subsidy: Amount,
}

/// How `amount` of a deposit is split. `latency_ms` counts in a session's first claim alone; `subsidy_left` is what the epoch's cap leaves.
pub fn split(params: &InferenceParams, amount: Amount, latency_ms: Option<u32>, subsidy_left: Amount) -> Payment {
    // Rounded in favour of what burns, so that something always does.
    let paid = amount.share(PPM.saturating_sub(params.burn_ppm)).unwrap_or_default();
    let burned = Amount(amount.0 - paid.0.min(amount.0));
    let early = latency_ms.map_or(0, |ms| params.latency_ms.saturating_sub(u64::from(ms)));
    let bonus = params.latency_bonus.proportion(early, params.latency_ms).unwrap_or_default();
    let most = Amount(params.top_up.0.saturating_add(bonus.0));
    let top_up = burned.share(params.top_up_ppm).unwrap_or_default().min(most);
    Payment { paid, burned, top_up, subsidy: Amount(most.0 - top_up.0).min(subsidy_left) }
}

/// What one node may draw, in an epoch, of a deposit that was `basis` when the epoch began: half of it is shared by all `nodes`, half
/// by those of them that hold one of the `seats`. The parts of all nodes together are never more than the deposit.
pub fn part(basis: Amount, nodes: u32, seats: u32, seated: bool) -> Amount {
    let of_seats = if seats == 0 { 0 } else { basis.0 / 2 };
    let of_nodes = (basis.0 - of_seats) / u64::from(nodes.max(1));
    let seat = if seated && seats > 0 { of_seats / u64::from(seats) } else { 0 };
    Amount(of_nodes + seat)
}

/// The price of the next epoch, after one in which `paid` was paid at the market's `price` to nodes of which `servers` hold seats.
/// Demand over capacity scales the least price; the old one weighs `price_memory_ppm`.
pub fn next_price(params: &InferenceParams, price: Amount, paid: Amount, servers: u32) -> Amount {
    let (floor, max) = (params.price_floor.0, params.price_max.0);
    let capacity = u128::from(price.0.max(1)) * u128::from(params.capacity) * u128::from(servers.max(1));
    let target = (u128::from(floor) * u128::from(paid.0)).checked_div(capacity).unwrap_or(0);
    let target = target.clamp(u128::from(floor), u128::from(max.max(floor)));
    let (old, memory) = (u128::from(price.0), u128::from(params.price_memory_ppm.min(PPM)));
    let smooth = (old * memory + target * (u128::from(PPM) - memory)) / u128::from(PPM);
    let step = (old * u128::from(params.price_step_ppm) / u128::from(PPM)).max(1);
    let bounded = smooth.clamp(old.saturating_sub(step), old + step);
    Amount(u64::try_from(bounded).unwrap_or(u64::MAX).clamp(floor, max.max(floor)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{hash::Domain, hash::Stream, presets};

    fn receipt(first: u32, end: u32, total: u32) -> Receipt {
        Receipt {
            payer: *key(1).public(),
            node: *key(2).public(),
            session: [3; 16],
            model: Hash([4; 32]),
            first,
            end,
            total,
            units: 10,
            price: Amount(10_000),
            expires_age: 1000,
            latency_ms: 500,
        }
    }

    fn key(i: u8) -> Keypair {
        Keypair::from_seed([i; 32])
    }

    fn random(seed: &str) -> Stream {
        Hash::of(Domain::Lot, seed.as_bytes()).stream()
    }

    /// A number of any length up to so many bits.
    fn below(random: &mut Stream, bits: u64) -> u64 {
        let bits = random.below(bits);
        random.below(1 << bits)
    }

    /// Parameters anywhere in their ranges.
    fn any_params(random: &mut Stream) -> InferenceParams {
        let first_ppm = random.below(PPM + 1);
        let price_floor = 1 + below(random, 40);
        let params = InferenceParams {
            first_ppm,
            last_ppm: random.below(PPM - first_ppm + 1),
            burn_ppm: 1 + random.below(PPM),
            top_up: Amount(random.below(1 << 40)),
            latency_bonus: Amount(random.below(1 << 40)),
            latency_ms: 1 + random.below(100_000),
            top_up_ppm: random.below(PPM / 2 + 1),
            subsidy_cap: Amount::ZERO,
            price_floor: Amount(price_floor),
            price_max: Amount(price_floor + random.below(1 << 40)),
            price_memory_ppm: random.below(PPM + 1),
            price_step_ppm: 1 + random.below(PPM / 2),
            capacity: 1 + random.below(1 << 30),
            ..presets::main().inference
        };
        params.validate().unwrap();
        params
    }

    #[test]
    fn a_receipt_is_its_payers_and_its_networks_alone_and_says_what_was_signed() {
        let (network, other) = (Hash([1; 32]), Hash([2; 32]));
        let signed = receipt(0, 4, 8).sign(&network, &key(1));
        assert!(signed.verify(&network).is_ok());
        assert!(signed.verify(&other).is_err());
        assert!(receipt(0, 4, 8).sign(&network, &key(2)).verify(&network).is_err(), "another's signature");
        let changes: [fn(&mut Receipt); 8] = [
            |r| r.node = *key(3).public(),
            |r| r.session[0] ^= 1,
            |r| r.model = Hash::ZERO,
            |r| r.end += 1,
            |r| r.units += 1,
            |r| r.price.0 += 1,
            |r| r.expires_age += 1,
            |r| r.latency_ms -= 1,
        ];
        for change in changes {
            let mut forged = signed;
            change(&mut forged.receipt);
            assert!(forged.verify(&network).is_err());
        }
        let bytes = crate::canonical::encode(&signed);
        assert_eq!(crate::canonical::decode::<SignedReceipt>(&bytes, 1000).unwrap(), signed);
    }

    #[test]
    fn the_first_layer_earns_15_percent_the_last_15_and_all_layers_alike_the_rest() {
        let params = presets::main().inference;
        let worth = |first, end| receipt(first, end, 10).worth(10, Amount(10_000), &params).unwrap().0;
        assert_eq!(worth(0, 10), 100_000, "one stage with all layers has all of it");
        assert_eq!([worth(0, 1), worth(1, 9), worth(9, 10)], [22_000, 56_000, 22_000]);
        assert_eq!([worth(0, 5), worth(5, 10)], [50_000, 50_000]);
    }

    #[test]
    fn the_stages_of_any_route_together_get_the_price_but_for_less_than_a_unit_of_coin_each() {
        let mut random = random("routes");
        for _ in 0..2_000 {
            let params = any_params(&mut random);
            let total = 1 + random.below(u64::from(MAX_LAYERS)) as u32;
            let (units, price) = (random.below(1 << 20), Amount(random.below(1 << 40)));
            let (mut first, mut sum, mut stages) = (0, 0, 0);
            while first < total {
                let end = first + 1 + random.below(u64::from(total - first)) as u32;
                sum += receipt(first, end, total).worth(units, price, &params).unwrap().0;
                (first, stages) = (end, stages + 1);
            }
            let whole = price.0 * units;
            assert!(sum <= whole && whole - sum < stages, "{sum} of {whole} in {stages} stages");
        }
    }

    #[test]
    fn layers_that_no_model_has_and_sums_that_no_coin_could_pay_are_worth_nothing() {
        let params = presets::main().inference;
        for (first, end, total) in [(0, 0, 0), (2, 2, 4), (3, 2, 4), (0, 5, 4), (0, 513, 513), (u32::MAX, 0, 1)] {
            assert_eq!(receipt(first, end, total).worth(1, Amount(1), &params), None);
        }
        assert_eq!(receipt(0, 4, 4).worth(u64::MAX, Amount(u64::MAX), &params), None);
    }

    #[test]
    fn a_ring_that_asks_itself_loses_whatever_the_parameters_and_though_nothing_costs_a_fee() {
        let mut random = random("rings");
        for _ in 0..20_000 {
            let params = any_params(&mut random);
            let amount = Amount(1 + below(&mut random, 50));
            let latency = (random.below(2) == 0).then(|| random.below(10_000) as u32);
            let split = split(&params, amount, latency, params.subsidy_cap);
            assert_eq!(split.paid.0 + split.burned.0, amount.0, "nothing of it is lost or made");
            assert_eq!(split.subsidy, Amount::ZERO);
            assert!(2 * split.top_up.0 <= split.burned.0, "at most half of what burned");
            assert!(split.paid.0 + split.top_up.0 < amount.0, "{split:?} of {amount:?}");
        }
    }

    #[test]
    fn top_up_and_latency_bonus_are_at_most_5_cents_each_and_the_bonus_falls_in_a_line() {
        let params = presets::main().inference;
        let top_up = |latency| split(&params, Amount::alc(100), latency, Amount::ZERO).top_up;
        let cents = |n: u64| Amount(n * 1_000_000);
        assert_eq!(top_up(None), cents(5));
        for (ms, bonus) in [(0, 5), (1000, 4), (2500, 2), (5000, 0), (60_000, 0)] {
            let half = if ms == 2500 { 500_000 } else { 0 };
            assert_eq!(top_up(Some(ms)), Amount(cents(5 + bonus).0 + half), "{ms} ms");
        }
        // Half of the 5 % that burn of 0.1 ALC is less than all that.
        assert_eq!(split(&params, cents(10), Some(0), Amount::ZERO).top_up, Amount(250_000));
        let subsidised = split(&params, cents(10), Some(0), cents(3));
        assert_eq!((subsidised.top_up, subsidised.subsidy), (Amount(250_000), cents(3)));
    }

    #[test]
    fn the_parts_of_all_nodes_together_are_never_more_than_the_deposit() {
        let mut random = random("parts");
        for _ in 0..5_000 {
            let basis = Amount(below(&mut random, 60));
            let nodes = below(&mut random, 17) as u32;
            let seats = random.below(u64::from(nodes) + 1) as u32;
            let [seated, other] = [true, false].map(|seated| u128::from(part(basis, nodes, seats, seated).0));
            let all = seated * u128::from(seats) + other * u128::from(nodes - seats);
            assert!(all <= u128::from(basis.0), "{all} of {basis:?} for {nodes}, {seats} of them with seats");
        }
    }

    #[test]
    fn a_crowd_of_registrations_leaves_a_node_with_a_seat_its_half() {
        let few = part(Amount::alc(10), 10, 10, true);
        let many = part(Amount::alc(10), 100_000, 10, true);
        assert_eq!(few, Amount::alc(1));
        assert!(many.0 >= few.0 / 2);
        assert_eq!(part(Amount::alc(10), 0, 0, false), Amount::alc(10));
    }

    #[test]
    fn the_price_stays_in_its_bounds_and_changes_by_no_more_than_its_step() {
        let mut random = random("prices");
        for _ in 0..500 {
            let params = any_params(&mut random);
            let mut price = params.price_floor;
            for _ in 0..20 {
                let (paid, servers) = (Amount(below(&mut random, 60)), below(&mut random, 8) as u32);
                let next = next_price(&params, price, paid, servers);
                let step = (price.0 as u128 * params.price_step_ppm as u128 / PPM as u128).max(1);
                assert!((params.price_floor..=params.price_max).contains(&next));
                assert!(u128::from(next.0.abs_diff(price.0)) <= step, "{price:?} to {next:?}");
                price = next;
            }
        }
    }

    #[test]
    fn the_price_follows_demand_over_capacity_up_and_down() {
        let params = presets::main().inference;
        let start = params.price_floor;
        let (mut price, servers) = (start, 4);
        let units = 3 * params.capacity * u64::from(servers);
        for _ in 0..60 {
            price = next_price(&params, price, Amount(price.0 * units), servers);
        }
        assert!(price.0 > 29 * start.0 / 10 && price.0 <= 3 * start.0, "three times the demand: {price:?}");
        assert_eq!(next_price(&params, start, Amount(start.0 * units / 3), servers), start, "as much as there is");
        for _ in 0..60 {
            price = next_price(&params, price, Amount::ZERO, 0);
        }
        assert!(price.0 < start.0 + start.0 / 100, "nobody asks: {price:?}");
    }
}
