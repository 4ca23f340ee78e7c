//! Network parameters: the numbers of ledger, rounds, inference, model and training, typed and range-checked. They are part of the genesis, and so of
//! the network's id; code holds no literal of theirs (`crate::presets` reads them from `config/`). Durations are in milliseconds of ledger age (see `docs/ledger.md`).

use crate::{
    aggregation::{Aggregation, Pre},
    amount::{Amount, PPM},
    canonical::{Decode, Encode},
    compression::Codec,
};
use serde::{Deserialize, Serialize};

/// A parameter that is out of its range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("network parameter {name} is out of range: {rule}")]
pub struct ParamError {
    name: &'static str,
    rule: &'static str,
}

pub(crate) fn check(ok: bool, name: &'static str, rule: &'static str) -> Result<(), ParamError> {
    if ok { Ok(()) } else { Err(ParamError { name, rule }) }
}

/// Everything that nodes of one network agree on, beside the founders and the data.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Coins, transfers, seats, validators, blocks.
    pub ledger: LedgerParams,
    /// Phases, deadlines and pay of a training round.
    pub round: RoundParams,
    /// Prices and payment of inference.
    pub inference: InferenceParams,
    /// The model's shape.
    pub model: ModelConfig,
    /// Inner and outer optimisation.
    pub training: TrainingParams,
}

impl Params {
    /// Bytes of a block that claims of receipts may fill.
    pub fn claim_bytes(&self) -> u64 {
        u64::from(self.ledger.block_bytes) * self.inference.block_ppm.min(PPM) / PPM
    }

    /// Checks every range.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.ledger.validate()?;
        self.round.validate()?;
        self.inference.validate()?;
        check(self.claim_bytes() >= 1 << 10, "block_ppm", "at least 1 KiB of a block, or no claim would ever be paid")?;
        // Two replayers, one after another, and a trial: until then what could be slashed is still there.
        let found_out = self.round.replay_ms.saturating_mul(3).saturating_add(self.ledger.challenge_ms);
        check(
            found_out <= self.ledger.unbonding_ms,
            "replay_ms",
            "3 replay_ms and challenge_ms are at most unbonding_ms",
        )?;
        self.model.validate()?;
        self.training.validate()
    }
}

/// A step of the validator-stake table: networks of up to `up_to` validators ask `stake` of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StakeTier {
    /// Largest number of validators the step holds for.
    pub up_to: u32,
    /// Stake that each of them must have.
    pub stake: Amount,
}

/// Parameters of coins, transfers, seats, validators and blocks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerParams {
    /// Flat fee of a transfer, a stake and an unstake.
    pub fee: Amount,
    /// Share of a fee that is burned, in ppm.
    pub fee_burn_ppm: u64,
    /// Share of a fee that goes to the block's proposer, in ppm.
    pub fee_proposer_ppm: u64,
    /// Attesting nodes that make a transfer spendable; 10 on every real network, lower only on development networks.
    pub confirmations: u32,
    /// Memo of a transfer, in bytes, at most.
    pub memo_bytes: u32,
    /// A transfer that is not confirmed within this time is refunded.
    pub pending_ms: u64,
    /// Reports close, and the transfer is final, this long after its inclusion.
    pub final_ms: u64,
    /// The sender may take a PENDING transfer back this long after its inclusion.
    pub dispute_ms: u64,
    /// Coins that a report binds until it is settled.
    pub report_bond: Amount,
    /// Share of the seats whose reports reverse a transfer, in percent.
    pub report_percent: u32,
    /// Reports that end below this share of the seats forfeit their bonds, in ppm.
    pub report_forfeit_ppm: u64,
    /// Reports that one node may make in an epoch, at most.
    pub report_quota: u32,
    /// Expired transfers, unbonding entries and lapsed nodes handled in one block, at most.
    pub sweep_per_block: u32,
    /// Seats drawn to attest a block at once; everybody may after `attest_open_blocks`.
    pub attest_drawn: u32,
    /// Blocks after which every seat may attest.
    pub attest_open_blocks: u64,

    /// Length of an epoch.
    pub epoch_ms: u64,
    /// Stake that gives a node a seat.
    pub seat_stake: Amount,
    /// Accepted rounds inside the window that give a node a seat.
    pub seat_rounds: u32,
    /// Activity window, in epochs.
    pub seat_window_epochs: u64,
    /// Epochs until a seat that was earned takes effect.
    pub seat_delay_epochs: u64,
    /// An epoch adds at most this many seats, or `seats / seat_growth_divisor` if that is more.
    pub seat_growth_min: u32,
    /// See `seat_growth_min`.
    pub seat_growth_divisor: u32,
    /// Founders hold seats without stake or work until this epoch.
    pub founder_seat_epochs: u64,

    /// Stake asked of a validator by number of validators, ascending.
    pub stake_tiers: Vec<StakeTier>,
    /// Founders validate until this many staked validators stand ready...
    pub handover_validators: u32,
    /// ...with at least this stake together; then they are latched out for good.
    pub handover_stake: Amount,
    /// Time from an unstake until the coins are free.
    pub unbonding_ms: u64,
    /// Unstakes of one wallet under way, at most.
    pub max_unbonding: u32,
    /// After the handover the powers change by less than one in this many of the whole, in one epoch.
    pub power_change_divisor: u32,
    /// Links of a validator's chain of lots; each of its blocks reveals one.
    pub lot_chain: u32,

    /// Older evidence is not admitted; at most `unbonding_ms`.
    pub evidence_ms: u64,
    /// Share of the stake that two rival signatures cost, in ppm.
    pub slash_ppm: u64,
    /// Share of the stake that a forged contribution costs, in ppm.
    pub fraud_slash_ppm: u64,
    /// Share of what is slashed that goes to who showed it, in ppm; the rest burns.
    pub bounty_ppm: u64,
    /// A slashed node stays jailed at least this long.
    pub jail_ms: u64,
    /// Coins that a challenge binds until it is decided.
    pub challenge_bond: Amount,
    /// Time that validators have to replay what is challenged, and to vote.
    pub challenge_ms: u64,
    /// A contribution can be challenged until this many rounds later.
    pub challenge_rounds: u64,
    /// Challenges open at a time, at most.
    pub max_challenges: u32,

    /// A proposal to change parameters is voted on for this long; less than `unbonding_ms`, so no stake votes twice.
    pub poll_ms: u64,
    /// Coins that a proposal binds; they burn when fewer than the quorum vote.
    pub poll_deposit: Amount,
    /// Share of all stake, what unbonds counted in, that must vote; in ppm.
    pub poll_quorum_ppm: u64,
    /// Share of the votes cast that must approve, in ppm.
    pub poll_approval_ppm: u64,
    /// Blocks from an approval to the change.
    pub poll_delay_blocks: u64,
    /// Proposals open at a time, at most.
    pub max_polls: u32,
    /// A light client trusts a checkpoint this long after its block's time: stake that vouched for it can't be free yet.
    pub trust_ms: u64,

    /// Leading zero bits of a registration's proof-of-work stamp in an empty registry; one more each time half of the
    /// places that were left is taken.
    pub stamp_bits: u32,
    /// Leading zero bits of a stamp at most, however full the registry is.
    pub stamp_bits_full: u32,
    /// Registrations in one block, at most.
    pub registrations_per_block: u32,
    /// Registered nodes, at most.
    pub max_nodes: u32,
    /// A node sends a heartbeat this often...
    pub heartbeat_ms: u64,
    /// ...and counts as alive this long after its last one.
    pub alive_ms: u64,
    /// A registration without any heartbeat for this long lapses.
    pub lapse_ms: u64,

    /// A block's transactions, in bytes, at most.
    pub block_bytes: u32,
    /// Share of a block's bytes open to attestations, in ppm.
    pub attest_quota_ppm: u64,
    /// An empty block is made after this long without transactions.
    pub idle_block_ms: u64,
    /// A gap between two block times counts for at most this much age, so that an outage expires nothing.
    pub max_gap_ms: u64,
    /// Clock skew allowed to a transaction's and a proposal's time.
    pub skew_ms: u64,
    /// A transaction is refused when its time lies further back than this.
    pub transaction_ttl_ms: u64,
}

const SECOND: u64 = 1_000;
const WEEK: u64 = 7 * 24 * 3_600 * SECOND;

impl LedgerParams {
    fn validate(&self) -> Result<(), ParamError> {
        check(
            self.fee_burn_ppm.saturating_add(self.fee_proposer_ppm) <= PPM,
            "fee_burn_ppm",
            "burn and proposer shares are at most 1 000 000 ppm together",
        )?;
        // A vote costs the fee and a proposal its deposit: higher ones could not be voted down again.
        check(self.fee <= Amount::alc(10), "fee", "at most 10 ALC")?;
        check(self.poll_deposit <= Amount::alc(10_000), "poll_deposit", "at most 10 000 ALC")?;
        check(self.poll_delay_blocks <= 1_000_000, "poll_delay_blocks", "at most 1 000 000")?;
        // Reports and challenges are everybody's protection: no number may put them out of reach.
        check(self.report_bond <= Amount::alc(100), "report_bond", "at most 100 ALC")?;
        check(self.report_quota > 0, "report_quota", "positive")?;
        check(self.challenge_bond <= Amount::alc(1_000), "challenge_bond", "at most 1000 ALC")?;
        check(
            (SECOND..=self.unbonding_ms).contains(&self.challenge_ms),
            "challenge_ms",
            "1 000 to unbonding_ms (later no stake would be left to slash)",
        )?;
        check(self.confirmations <= 10, "confirmations", "at most ten confirmations are tracked")?;
        check(self.memo_bytes <= 1024, "memo_bytes", "at most 1024")?;
        check(
            self.pending_ms > 0 && self.final_ms >= self.pending_ms,
            "final_ms",
            "at least pending_ms, which is positive",
        )?;
        check((1..=10_000).contains(&self.sweep_per_block), "sweep_per_block", "1 to 10 000")?;
        check(self.dispute_ms <= self.final_ms, "dispute_ms", "at most final_ms")?;
        check((51..=100).contains(&self.report_percent), "report_percent", "51 to 100")?;
        check(self.report_forfeit_ppm <= PPM, "report_forfeit_ppm", "at most 1 000 000")?;
        check(self.evidence_ms <= self.unbonding_ms, "evidence_ms", "at most unbonding_ms")?;
        check((1..=1000).contains(&self.max_unbonding), "max_unbonding", "1 to 1000")?;
        check((2..=100).contains(&self.power_change_divisor), "power_change_divisor", "2 to 100")?;
        check((1..=1 << 24).contains(&self.lot_chain), "lot_chain", "1 to 16 777 216")?;
        let shares = [
            (self.slash_ppm, "slash_ppm"),
            (self.fraud_slash_ppm, "fraud_slash_ppm"),
            (self.poll_quorum_ppm, "poll_quorum_ppm"),
        ];
        shares.into_iter().try_for_each(|(share, name)| check(share <= PPM, name, "at most 1 000 000"))?;
        check(self.bounty_ppm <= PPM / 2, "bounty_ppm", "at most 500 000 (a slash must hurt who shows its own fraud)")?;
        check((PPM / 2..=PPM).contains(&self.poll_approval_ppm), "poll_approval_ppm", "500 000 to 1 000 000")?;
        check((1..=100).contains(&self.challenge_rounds), "challenge_rounds", "1 to 100")?;
        check((1..=64).contains(&self.max_challenges), "max_challenges", "1 to 64")?;
        check((1..=64).contains(&self.max_polls), "max_polls", "1 to 64")?;
        check(self.poll_ms < self.unbonding_ms, "poll_ms", "less than unbonding_ms")?;
        check(self.attest_drawn >= self.confirmations, "attest_drawn", "at least confirmations")?;
        check(self.attest_open_blocks <= 10_000, "attest_open_blocks", "at most 10 000")?;
        check(self.seat_rounds > 0, "seat_rounds", "positive")?;
        check(self.lapse_ms >= self.alive_ms, "lapse_ms", "at least alive_ms")?;
        check(self.registrations_per_block > 0, "registrations_per_block", "positive")?;
        check(self.max_nodes > 0, "max_nodes", "positive")?;
        check((SECOND..=3_600 * SECOND).contains(&self.skew_ms), "skew_ms", "1 000 to 3 600 000")?;
        check(self.transaction_ttl_ms >= SECOND, "transaction_ttl_ms", "at least 1 000")?;
        check(self.epoch_ms >= SECOND, "epoch_ms", "at least 1 000")?;
        check((1..=64).contains(&self.seat_delay_epochs), "seat_delay_epochs", "1 to 64")?;
        check((1..=100_000).contains(&self.seat_window_epochs), "seat_window_epochs", "1 to 100 000")?;
        check(self.seat_growth_divisor > 0, "seat_growth_divisor", "positive")?;
        check(!self.stake_tiers.is_empty() && self.stake_tiers.len() <= 64, "stake_tiers", "1 to 64 steps")?;
        check(
            self.stake_tiers.windows(2).all(|w| w[0].up_to < w[1].up_to && w[0].stake <= w[1].stake),
            "stake_tiers",
            "ascending in both columns",
        )?;
        check((1..=4096).contains(&self.handover_validators), "handover_validators", "1 to 4096")?;
        check(
            self.trust_ms > 0 && self.trust_ms <= self.evidence_ms,
            "trust_ms",
            "positive, at most evidence_ms (what can no longer be punished is no proof)",
        )?;
        check(self.stamp_bits <= 40, "stamp_bits", "at most 40")?;
        check(
            (self.stamp_bits..=40).contains(&self.stamp_bits_full),
            "stamp_bits_full",
            "at least stamp_bits, at most 40",
        )?;
        check(
            self.alive_ms >= self.heartbeat_ms && self.heartbeat_ms > 0,
            "alive_ms",
            "at least heartbeat_ms, which is positive",
        )?;
        check(
            (64 << 10..=768 << 10).contains(&self.block_bytes),
            "block_bytes",
            "64 KiB to 768 KiB (a proposal travels in one gossip message)",
        )?;
        check(self.attest_quota_ppm <= PPM, "attest_quota_ppm", "at most 1 000 000")?;
        check(
            u64::from(self.block_bytes) * self.attest_quota_ppm / PPM >= 1 << 10,
            "attest_quota_ppm",
            "at least 1 KiB of a block, or nothing would ever be confirmed",
        )?;
        check((100..=60 * SECOND).contains(&self.idle_block_ms), "idle_block_ms", "100 to 60 000")?;
        check(self.max_gap_ms >= self.idle_block_ms, "max_gap_ms", "at least idle_block_ms")
    }
}

/// Phases, deadlines and pay of a training round.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundParams {
    /// Rounds after which training ends; 0 for never. For experiments and tests.
    pub rounds: u64,
    /// A round opens at once when this many participants are eligible...
    pub target_participants: u32,
    /// ...or with fewer (at least one) after waiting this long.
    pub open_wait_ms: u64,
    /// Participants of a round, at most.
    pub max_participants: u32,
    /// A participant that gives nothing that counts, again and again, sits out 0, 1, 3, 7... rounds, at most so many.
    pub max_rest_rounds: u64,
    /// Bounds of the adaptive deadline for commits.
    pub min_train_ms: u64,
    /// See `min_train_ms`; also the deadline of the very first round.
    pub max_train_ms: u64,
    /// The deadline is the largest of `median + train_mad_ppm * MAD` and `1.5 * median` of the last round's commit times.
    pub train_mad_ppm: u64,
    /// Deadline for verdicts after the commits close.
    pub verify_ms: u64,
    /// Deadline for the model vote after the verdicts close.
    pub vote_ms: u64,
    /// Validators drawn to measure losses.
    pub committee: u32,
    /// Minted for a closed round, shared by its verified work.
    pub pot: Amount,
    /// Minted in one epoch by rounds and bonuses, at most.
    pub epoch_cap: Amount,
    /// Minted once an epoch for the lowest held-out loss ever, `best_loss_ppm` below the one that earned the last bonus.
    pub best_loss_bonus: Amount,
    /// See `best_loss_bonus`.
    pub best_loss_ppm: u64,
    /// Quality multiplier at most, in ppm; the least is 1 000 000.
    pub quality_max_ppm: u64,
    /// A loss this far below the round's median, relative to it, earns the whole quality bonus, in ppm.
    pub quality_full_ppm: u64,
    /// Share of the old score in a node's running average of its bonus, in ppm.
    pub quality_memory_ppm: u64,
    /// Speed multiplier at least, in ppm.
    pub speed_min_ppm: u64,
    /// Speed multiplier at most, in ppm.
    pub speed_max_ppm: u64,
    /// Stake behind a node multiplies the worth of its work by `1 + stake_bonus * log2(1 + stake / stake_bonus_unit)`; in ppm.
    pub stake_bonus_ppm: u64,
    /// See `stake_bonus_ppm`.
    pub stake_bonus_unit: Amount,
    /// Minted for each minute that a seated node was up, as its heartbeats show, at the epoch's end.
    pub uptime_pay: Amount,
    /// Minted for uptime in one epoch, at most; shared in proportion.
    pub uptime_cap: Amount,
    /// Chance of a proven node's contribution of mean weight to be replayed, in ppm.
    pub replay_ppm: u64,
    /// Clean replays that end a node's probation.
    pub probation: u32,
    /// Time that a replayer has to report.
    pub replay_ms: u64,
    /// What a round promised is minted when so many rounds have closed after it...
    pub vest_rounds: u64,
    /// ...or after this time.
    pub vest_ms: u64,
    /// Part of the pay for work of another class than the round's, and for unproven work that nobody replayed; in ppm.
    pub unverified_ppm: u64,
    /// A payload, in bytes, at most.
    pub max_payload_bytes: u64,
    /// Payloads are kept and served this many rounds.
    pub keep_rounds: u64,
}

impl RoundParams {
    fn validate(&self) -> Result<(), ParamError> {
        check(
            self.target_participants >= 1 && self.target_participants <= self.max_participants,
            "target_participants",
            "1 to max_participants",
        )?;
        check((1..=1024).contains(&self.max_participants), "max_participants", "1 to 1024")?;
        check(self.max_rest_rounds <= 1024, "max_rest_rounds", "at most 1024")?;
        // An open round keeps its deadline whatever is voted later, so none may be for ever.
        let waits = [self.open_wait_ms, self.max_train_ms, self.verify_ms, self.vote_ms];
        check(waits.into_iter().all(|ms| ms <= WEEK), "max_train_ms", "the phases of a round last a week at most")?;
        check(
            self.min_train_ms > 0 && self.min_train_ms <= self.max_train_ms,
            "min_train_ms",
            "positive, at most max_train_ms",
        )?;
        check(self.train_mad_ppm <= 100 * PPM, "train_mad_ppm", "at most 100 000 000")?;
        check(self.verify_ms > 0 && self.vote_ms > 0, "verify_ms", "verify_ms and vote_ms are positive")?;
        check((1..=128).contains(&self.committee), "committee", "1 to 128")?;
        check(self.best_loss_ppm <= PPM, "best_loss_ppm", "at most 1 000 000")?;
        check((PPM..=100 * PPM).contains(&self.quality_max_ppm), "quality_max_ppm", "1 000 000 to 100 000 000")?;
        check((1..=PPM).contains(&self.quality_full_ppm), "quality_full_ppm", "1 to 1 000 000")?;
        check(self.quality_memory_ppm < PPM, "quality_memory_ppm", "below 1 000 000")?;
        check(self.speed_min_ppm > 0 && self.speed_min_ppm <= PPM, "speed_min_ppm", "positive, at most 1 000 000")?;
        check((PPM..=100 * PPM).contains(&self.speed_max_ppm), "speed_max_ppm", "1 000 000 to 100 000 000")?;
        check(self.stake_bonus_ppm <= 10 * PPM, "stake_bonus_ppm", "at most 10 000 000")?;
        check(self.stake_bonus_unit > Amount::ZERO, "stake_bonus_unit", "positive")?;
        check(self.replay_ppm <= PPM, "replay_ppm", "at most 1 000 000")?;
        check((SECOND..=WEEK).contains(&self.replay_ms), "replay_ms", "1 000 to a week")?;
        // Every round that is not settled stands in the state.
        check(self.vest_rounds <= 256, "vest_rounds", "at most 256")?;
        check(self.vest_ms <= 4 * WEEK, "vest_ms", "at most four weeks")?;
        check(self.unverified_ppm <= PPM, "unverified_ppm", "at most 1 000 000")?;
        check((1..=1000).contains(&self.keep_rounds), "keep_rounds", "1 to 1000")
    }
}

/// Prices and payment of inference.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceParams {
    /// Positions of a text that make a unit, which is what has a price.
    pub unit_tokens: u32,
    /// Share of the price for the first layer, in ppm.
    pub first_ppm: u64,
    /// Share of the price for the last layer, in ppm; what is left is shared by all layers alike.
    pub last_ppm: u64,
    /// Share of what is paid that burns, in ppm.
    pub burn_ppm: u64,
    /// Minted on top of a claim, at most...
    pub top_up: Amount,
    /// ...and with a session's first claim so much more, for a first token at once...
    pub latency_bonus: Amount,
    /// ...down to nothing for one that takes this long...
    pub latency_ms: u64,
    /// ...but no more than this share of what the claim burned, in ppm.
    pub top_up_ppm: u64,
    /// Minted beyond that share in one epoch, at most: for development networks.
    pub subsidy_cap: Amount,
    /// A claim is worth at least this: it takes room in the state until the receipt expires.
    pub receipt_min: Amount,
    /// A receipt may expire this far ahead.
    pub receipt_ms: u64,
    /// Receipts that one node may claim in an epoch, at most.
    pub receipt_quota: u32,
    /// Share of a block's bytes open to claims, in ppm.
    pub block_ppm: u64,
    /// Time from a withdrawal to the coins; at least `receipt_ms`.
    pub withdraw_ms: u64,
    /// The market price of a unit at first, and at least.
    pub price_floor: Amount,
    /// The market price at most.
    pub price_max: Amount,
    /// Share of the old price in the next one, in ppm.
    pub price_memory_ppm: u64,
    /// The price changes by at most this share of itself in an epoch, in ppm.
    pub price_step_ppm: u64,
    /// A receipt's price counts up to this share of the market's, in ppm.
    pub price_cap_ppm: u64,
    /// Units that a seated node is taken to be able to serve in an epoch.
    pub capacity: u64,
}

impl InferenceParams {
    pub(crate) fn validate(&self) -> Result<(), ParamError> {
        check((1..=1 << 20).contains(&self.unit_tokens), "unit_tokens", "1 to 1 048 576")?;
        check(
            self.first_ppm.saturating_add(self.last_ppm) <= PPM,
            "first_ppm",
            "the shares of the first and the last layer are at most 1 000 000 ppm together",
        )?;
        check((1..=PPM).contains(&self.burn_ppm), "burn_ppm", "1 to 1 000 000 (asking oneself must cost something)")?;
        check(
            self.top_up_ppm <= PPM / 2,
            "top_up_ppm",
            "at most 500 000 (who asks itself must lose half of what burns)",
        )?;
        check((1..=3_600 * SECOND).contains(&self.latency_ms), "latency_ms", "1 to 3 600 000")?;
        check(self.receipt_min <= Amount::alc(1), "receipt_min", "at most 1 ALC")?;
        check((SECOND..=WEEK).contains(&self.receipt_ms), "receipt_ms", "1 000 to a week")?;
        check(self.receipt_quota > 0, "receipt_quota", "positive")?;
        check(self.block_ppm <= PPM, "block_ppm", "at most 1 000 000")?;
        check(
            (self.receipt_ms..=4 * WEEK).contains(&self.withdraw_ms),
            "withdraw_ms",
            "receipt_ms to four weeks (what is promised must still be there)",
        )?;
        check(
            self.price_floor > Amount::ZERO && self.price_floor <= self.price_max,
            "price_floor",
            "positive, at most price_max",
        )?;
        check(self.price_memory_ppm <= PPM, "price_memory_ppm", "at most 1 000 000")?;
        check((1..=PPM / 2).contains(&self.price_step_ppm), "price_step_ppm", "1 to 500 000")?;
        check((PPM..=100 * PPM).contains(&self.price_cap_ppm), "price_cap_ppm", "1 000 000 to 100 000 000")?;
        check((1..=1 << 40).contains(&self.capacity), "capacity", "1 to 2^40")
    }
}

/// The family of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// GPT-2: learned positions, LayerNorm with bias, GELU, tied output.
    Gpt2,
    /// RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases.
    Modern,
}

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokenizer {
    /// One token a byte; 256 tokens.
    Bytes,
    /// GPT-2's byte-pair encoding; 50 257 tokens.
    Gpt2,
}

impl Tokenizer {
    /// Number of tokens.
    pub fn vocabulary(self) -> u32 {
        match self {
            Tokenizer::Bytes => 256,
            Tokenizer::Gpt2 => 50_257,
        }
    }
}

/// Shape of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Family.
    pub style: Style,
    /// Tokenizer; its vocabulary is the model's.
    pub tokenizer: Tokenizer,
    /// Decoder blocks.
    pub layers: u32,
    /// Residual width.
    pub width: u32,
    /// Attention heads; divides `width`.
    pub heads: u32,
    /// Key and value heads; divides `heads` (equal to it in GPT-2 style).
    pub kv_heads: u32,
    /// Inner width of the feed-forward part.
    pub ffn: u32,
    /// Longest sequence, in tokens.
    pub context: u32,
}

impl ModelConfig {
    fn validate(&self) -> Result<(), ParamError> {
        check((1..=512).contains(&self.layers), "layers", "1 to 512")?;
        check((8..=65_536).contains(&self.width), "width", "8 to 65 536")?;
        check(self.heads > 0 && self.width.is_multiple_of(self.heads), "heads", "divides width")?;
        check(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "kv_heads", "divides heads")?;
        check(self.style == Style::Modern || self.kv_heads == self.heads, "kv_heads", "equals heads in gpt2 style")?;
        check(
            self.style == Style::Gpt2 || (self.width / self.heads).is_multiple_of(2),
            "heads",
            "an even head width, for rotary positions",
        )?;
        check((8..=1 << 20).contains(&self.ffn), "ffn", "8 to 1 048 576")?;
        check((8..=1 << 20).contains(&self.context), "context", "8 to 1 048 576")
    }
}

/// Inner and outer optimisation of a round. Rates are exact binary numbers; see `docs/training.md` for how they were tuned.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingParams {
    /// Inner steps of a round (H).
    pub inner_steps: u32,
    /// Sequences of an inner step.
    pub batch: u32,
    /// Tokens of a training sequence; at most the model's context.
    pub sequence: u32,
    /// Peak learning rate of AdamW.
    pub lr: f64,
    /// Share of the peak that the rate falls to at the end of the schedule.
    pub lr_floor: f64,
    /// Rounds over which the rate falls from peak to floor by a cosine.
    pub lr_rounds: u64,
    /// Inner steps of linear warm-up at the start of the run.
    pub warmup_steps: u32,
    /// AdamW's first-moment decay.
    pub beta1: f64,
    /// AdamW's second-moment decay.
    pub beta2: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Gradient norm clip.
    pub clip: f64,
    /// Outer learning rate.
    pub outer_lr: f32,
    /// Outer Nesterov momentum.
    pub outer_momentum: f32,
    /// Largest Euclidean norm of an update, relative to the base weights' norm.
    pub max_update_norm: f32,
    /// Held-out sequences that a model vote measures.
    pub eval_sequences: u32,
    /// Held-out sequences that a contribution's score measures.
    pub score_sequences: u32,
    /// How updates are packed.
    pub codec: Codec,
    /// How the accepted updates become one.
    pub aggregation: Aggregation,
}

impl TrainingParams {
    fn validate(&self) -> Result<(), ParamError> {
        let unit = |x: f64| (0.0..1.0).contains(&x);
        check((1..=1 << 20).contains(&self.inner_steps), "inner_steps", "1 to 1 048 576")?;
        check((1..=1 << 16).contains(&self.batch), "batch", "1 to 65 536")?;
        check((2..=1 << 20).contains(&self.sequence), "sequence", "2 to the model's context")?;
        check(self.lr > 0.0 && self.lr <= 1.0, "lr", "above 0, at most 1")?;
        check(self.lr_floor > 0.0 && self.lr_floor <= 1.0, "lr_floor", "above 0, at most 1")?;
        check(self.lr_rounds > 0, "lr_rounds", "positive")?;
        check(unit(self.beta1) && unit(self.beta2), "beta1", "beta1 and beta2 lie in 0..1")?;
        check((0.0..=10.0).contains(&self.weight_decay), "weight_decay", "0 to 10")?;
        check(self.clip > 0.0 && self.clip.is_finite(), "clip", "positive")?;
        check(self.outer_lr > 0.0 && self.outer_lr <= 10.0, "outer_lr", "above 0, at most 10")?;
        check((0.0..1.0).contains(&self.outer_momentum), "outer_momentum", "0 to below 1")?;
        check(self.max_update_norm > 0.0 && self.max_update_norm.is_finite(), "max_update_norm", "positive")?;
        check(
            (1..=1 << 20).contains(&self.eval_sequences) && (1..=1 << 20).contains(&self.score_sequences),
            "eval_sequences",
            "1 to 1 048 576",
        )?;
        self.aggregation.validate()?;
        check(
            self.aggregation.pre != Some(Pre::Bucketing),
            "aggregation.pre",
            "nnm or nothing: a third of a round's updates may be attackers', and then most buckets hold one of them",
        )
    }

    /// Tokens that one contribution trains on.
    pub fn tokens_per_round(&self) -> u64 {
        u64::from(self.inner_steps) * u64::from(self.batch) * u64::from(self.sequence)
    }
}
