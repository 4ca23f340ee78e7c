//! One training round as the ledger sees it: who takes part, what was handed in, and what the validators made of it.
//!
//! ```text
//! Gather   until enough nodes are eligible
//! Train    until all have committed, or the deadline        fewer than 2f + 1 commits: aborted
//! Draw     until the next block, which draws the committee
//! Verify   until all is decided, or the deadline            fewer than 2f + 1 accepted: aborted
//! Vote     until more than 2/3 agree on a root: closed      split vote or deadline: aborted
//! ```

use super::reward::weighted_median;
use crate::block::ValidatorSet;
use ailo_protocol::{
    Hash, NodeId,
    canonical::{Decode, Encode},
    contribution::{Contribution, MicroNats},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What a round waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Eligible nodes.
    Gather,
    /// Commits of the participants.
    Train,
    /// The next block's lot, which draws the committee.
    Draw,
    /// Verdicts of the validators.
    Verify,
    /// Votes on the next model root.
    Vote,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Gather => "gather",
            Phase::Train => "train",
            Phase::Draw => "draw",
            Phase::Verify => "verify",
            Phase::Vote => "vote",
        })
    }
}

/// A contribution as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Commit {
    /// What the node committed to.
    pub contribution: Contribution,
    /// Age since the round's opening.
    pub after_ms: u64,
    /// Power that found the payload held and valid.
    pub valid: u64,
    /// Power that did not.
    pub invalid: u64,
    /// Power that found it suspiciously like another one.
    pub suspected: u64,
    /// Held-out losses that committee members measured; those of the contributor's own wallet are left out.
    pub losses: Vec<MicroNats>,
    /// How much more the update gains on its own data than elsewhere, as they measured it.
    pub owns: Vec<i64>,
}

/// A validator's vote on the next model.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Vote {
    /// Root of the next model state.
    pub root: Hash,
    /// Its held-out loss.
    pub loss: MicroNats,
}

/// The open round.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Round {
    /// Number; aborted rounds count.
    pub number: u64,
    /// What it waits for.
    pub phase: Phase,
    /// Root of the model state that training starts from.
    pub base_root: Hash,
    /// Participants in slot order; a node's position is its slot.
    pub participants: Vec<NodeId>,
    /// Contributions that may be malicious without harm.
    pub f: u32,
    /// The determinism class that validators with more than 2/3 of the power were of at the opening.
    pub class: Option<Hash>,
    /// Whether `f` is positive.
    pub protected: bool,
    /// Rounds closed before it opened: where the learning rate's schedule stands; 0 before the opening.
    pub steps: u64,
    /// Age at the opening; 0 before.
    pub opened_age: u64,
    /// Age when the phase began.
    pub phase_age: u64,
    /// Age at which the phase ends whatever came in. While gathering: from then on one participant is enough.
    pub deadline_age: u64,
    /// The lot of the round; zero while gathering.
    pub seed: Hash,
    /// Validators and their power as of the opening.
    pub power: ValidatorSet,
    /// Validators drawn, after the commits closed, to measure losses.
    pub committee: BTreeSet<NodeId>,
    /// The lot of that draw, by which the held-out windows are chosen that losses are measured on; zero before. Nobody can have
    /// trained for them.
    pub windows: Hash,
    /// Contributions by node.
    pub contributions: BTreeMap<NodeId, Commit>,
    /// Validators that have sent their verdict.
    pub verdicts: BTreeSet<NodeId>,
    /// Votes by validator.
    pub votes: BTreeMap<NodeId, Vote>,
}

impl Round {
    /// The root with most power behind it. None before the first vote.
    pub fn voted_root(&self) -> Option<Hash> {
        self.tally().into_iter().max_by_key(|(_, power)| *power).map(|(root, _)| root)
    }

    /// The held-out loss that was voted: of the root with most power, the median by power. None before the first vote.
    pub fn voted_loss(&self) -> Option<MicroNats> {
        let root = self.voted_root()?;
        let votes = self.votes.iter().filter(|(_, vote)| vote.root == root);
        weighted_median(votes.map(|(node, vote)| (vote.loss, self.power.power(node))).collect())
    }

    /// A round that gathers.
    pub fn gathering(number: u64, base_root: Hash, age: u64, open_wait_ms: u64) -> Round {
        Round {
            number,
            phase: Phase::Gather,
            base_root,
            participants: Vec::new(),
            f: 0,
            class: None,
            protected: false,
            steps: 0,
            opened_age: 0,
            phase_age: age,
            deadline_age: age.saturating_add(open_wait_ms),
            seed: Hash::ZERO,
            power: ValidatorSet::default(),
            committee: BTreeSet::new(),
            windows: Hash::ZERO,
            contributions: BTreeMap::new(),
            verdicts: BTreeSet::new(),
            votes: BTreeMap::new(),
        }
    }

    /// The slot of `node`, if it takes part.
    pub fn slot(&self, node: &NodeId) -> Option<u32> {
        self.participants.iter().position(|n| n == node).and_then(|slot| u32::try_from(slot).ok())
    }

    /// Contributions needed to go on: `2f + 1`.
    pub fn needed(&self) -> usize {
        2 * self.f as usize + 1
    }

    /// Whether more than two thirds of the power found the contribution held and valid.
    pub fn is_accepted(&self, commit: &Commit) -> bool {
        self.power.is_quorum(commit.valid)
    }

    /// Whether a third of the power found the contribution suspiciously like another one.
    pub fn is_suspect(&self, commit: &Commit) -> bool {
        commit.suspected > 0 && !self.power.is_quorum(self.power.total_power() - commit.suspected)
    }

    /// The accepted contributions, in slot order: the order in which every node aggregates them.
    pub fn accepted(&self) -> Vec<(NodeId, &Commit)> {
        let commits = self.participants.iter().filter_map(|node| Some((*node, self.contributions.get(node)?)));
        commits.filter(|(_, commit)| self.is_accepted(commit)).collect()
    }

    /// Whether no verdict that may still come can change the accepted set.
    pub fn is_decided(&self) -> bool {
        let total = self.power.total_power();
        let open = |c: &Commit| !self.is_accepted(c) && self.power.is_quorum(total - c.invalid);
        !self.contributions.values().any(open)
    }

    /// The roots voted for, each with its power.
    pub fn tally(&self) -> BTreeMap<Hash, u64> {
        let mut tally = BTreeMap::new();
        for (node, vote) in &self.votes {
            *tally.entry(vote.root).or_default() += self.power.power(node);
        }
        tally
    }
}
