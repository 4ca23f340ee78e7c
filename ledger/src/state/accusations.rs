//! Accusations of stages: who signed what it did not compute of a text is convicted by those who have the model.
//!
//! - An *accusation* shows a stage's statement and the text that it is about (`ailo_protocol::inference::proof::Charge`). The validators of
//!   that moment that have the model read the text, and vote with what they found, for as long as on a challenge (`evidence.rs`).
//! - More than 2/3 of the power on one and the same other result convicts; otherwise the bond burns. Who does not have the model says
//!   nothing, so nobody is convicted over a model that few validators have, and who accuses should know that they have it.
//! - Bonds and places are like those of challenges, and apart from them; a node is accused of one thing at a time over each model. It costs
//!   the fee, too: what an accomplice without stake has signed is convicted for nothing.
//! - Who is convicted is slashed and jailed like a forger, and receipts that it has not claimed are void. One conviction covers all that it
//!   signed before as a stage; no other slash does, as evidence costs less. Whom a conviction has jailed is accused of nothing more.

use super::{Accusation, Event, Executor, Key, Rejection, State, entry::Record, money::Pool};
use ailo_protocol::{Address, Amount, Hash, NodeId, inference::proof::Charge};

impl State {
    /// Open accusations.
    pub fn accusations(&self) -> impl Iterator<Item = &Accusation> {
        self.accusations_from(super::FIRST_NODE, super::LAST_NODE)
    }

    /// Open accusations of one node.
    pub(super) fn accusations_of(&self, node: NodeId) -> impl Iterator<Item = &Accusation> {
        self.accusations_from(node, node)
    }

    fn accusations_from(&self, first: NodeId, last: NodeId) -> impl Iterator<Item = &Accusation> {
        let range = Key::Accusation(first, Hash::ZERO)..=Key::Accusation(last, Hash([0xff; 32]));
        self.entries.range(range).filter_map(|(_, entry)| Accusation::of(entry))
    }

    /// Statements of stages below this height are too old: there is time for a trial before the stake of then is free.
    pub fn oldest_chargeable(&self) -> u64 {
        let ledger = &self.params().ledger;
        self.height_of_age(self.age_ms().saturating_sub(ledger.evidence_ms.saturating_sub(ledger.challenge_ms)))
    }

    /// What the next accusation binds.
    pub fn next_accusation_bond(&self) -> Amount {
        self.bond(self.accusations().count())
    }

    /// Whether what a node signed at `height` may be shown in the next block.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_charge(&self, node: &NodeId, height: u64) -> Result<(), Rejection> {
        self.chargeable(node, height, self.height() + 1)
    }

    fn chargeable(&self, id: &NodeId, height: u64, now: u64) -> Result<(), Rejection> {
        let (node, oldest) = (self.node(id).ok_or(Rejection::UnknownNode)?, self.oldest_chargeable());
        if height < oldest {
            return Err(Rejection::EvidenceTooOld { oldest });
        }
        if height > now {
            return Err(Rejection::EvidenceFromFuture);
        }
        if height <= node.convicted_height {
            return Err(Rejection::SlashedAlready { height: node.convicted_height });
        }
        // The conviction is its last slash, and it has not come back since.
        match node.jailed_until.is_some() && node.convicted_height == node.slashed_height {
            true => Err(Rejection::NothingLeft),
            false => Ok(()),
        }
    }
}

impl Executor {
    pub(super) fn accuse_stage(&mut self, wallet: Address, nonce: u64, charge: &Charge) -> Result<(), Rejection> {
        if !charge.is_sound() {
            return Err(Rejection::BadCharge);
        }
        let node = charge.signed.node;
        self.state.chargeable(&node, charge.signed.statement.height, self.context.height)?;
        let key = Key::Accusation(node, charge.signed.statement.model);
        if self.state.get::<Accusation>(&key).is_some() {
            return Err(Rejection::AccusedAlready);
        }
        let (open, fee) = (self.state.accusations().count(), self.state.params().ledger.fee);
        let trial = self.open_trial(wallet, nonce, charge.claimed(), open, fee)?;
        self.set(key, Accusation { trial, charge: charge.clone() });
        self.events.push(Event::Accused { node, charge: charge.id(), accuser: wallet });
        Ok(())
    }

    pub(super) fn judge_stage(&mut self, judge: NodeId, node: NodeId, id: Hash, found: Hash) -> Result<(), Rejection> {
        let accusation = self.state.accusations_of(node).find(|accusation| accusation.charge.id() == id);
        let Accusation { mut trial, charge } = accusation.ok_or(Rejection::NoSuchChallenge)?.clone();
        let key = Key::Accusation(node, charge.signed.statement.model);
        match trial.hear(judge, found, self.state.age_ms())? {
            Some(true) => {
                self.remove(key);
                self.give_back_bond(&trial);
                self.events.push(Event::AccusationEnded { node, charge: id, guilty: true });
                self.punish_stage(node, charge.signed.statement.height, trial.challenger);
            }
            Some(false) => self.acquit(&Accusation { trial, charge }),
            None => self.set(key, Accusation { trial, charge }),
        }
        Ok(())
    }

    fn punish_stage(&mut self, id: NodeId, height: u64, accuser: Address) {
        let params = self.state.params();
        let (ppm, keeps_ms) = (params.ledger.fraud_slash_ppm, params.inference.receipt_ms);
        let Some(mut node) = self.state.node(&id).cloned() else { return };
        node.unpaid_until = self.state.age_ms().saturating_add(keeps_ms);
        // Another conviction may have covered it meanwhile.
        let covered = height <= node.convicted_height;
        node.convicted_height = self.context.height;
        self.set(Key::Node(id), node);
        if !covered {
            self.slash(id, ppm, accuser);
        }
    }

    fn acquit(&mut self, Accusation { trial, charge }: &Accusation) {
        let (node, model) = (charge.signed.node, charge.signed.statement.model);
        self.remove(Key::Accusation(node, model));
        self.burn(Pool::Escrow, trial.bond);
        self.events.push(Event::AccusationEnded { node, charge: charge.id(), guilty: false });
    }

    /// Dismisses the accusations that were not upheld in time.
    pub(super) fn end_accusations(&mut self) {
        let age = self.state.age_ms();
        let over = self.state.accusations().filter(|accusation| accusation.trial.deadline_age <= age);
        let over: Vec<Accusation> = over.cloned().collect();
        over.iter().for_each(|accusation| self.acquit(accusation));
    }
}
