//! What goes wrong, when, and for how long: drawn from the seed, begun as the chain grows, and always healed.

use super::{
    disk::{End, Moment, Trap},
    world::{Event, World},
};
use crate::invariants::Violation;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process dies, between two events or inside an operation of its disk.
    Crash,
    /// A machine loses its power, with what was not synced.
    PowerLoss,
    /// All machines lose their power at once.
    Outage,
    /// The network falls into two parts.
    Partition,
    /// Many packets are lost.
    LossBurst,
    /// A member is far away.
    SlowLink,
    /// A member's clock is wrong.
    ClockSkew,
    /// A validator breaks the rules from the beginning to the end.
    Byzantine,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 8] = [
        Kind::Crash,
        Kind::PowerLoss,
        Kind::Outage,
        Kind::Partition,
        Kind::LossBurst,
        Kind::SlowLink,
        Kind::ClockSkew,
        Kind::Byzantine,
    ];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Crash => "crash",
            Kind::PowerLoss => "power loss",
            Kind::Outage => "outage",
            Kind::Partition => "partition",
            Kind::LossBurst => "loss burst",
            Kind::SlowLink => "slow link",
            Kind::ClockSkew => "clock skew",
            Kind::Byzantine => "byzantine validator",
        }
    }
}

/// A fault that is to come.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// When the chain has this height.
    pub height: u64,
    /// What.
    pub kind: Kind,
}

/// A fault that has begun.
#[derive(Clone, Debug)]
pub struct Ongoing {
    /// What.
    pub kind: Kind,
    member: usize,
    healed: bool,
}

impl World {
    /// Draws `count` faults that begin before the chain has `last` blocks, in their order.
    pub fn draw_faults(&mut self, count: u64, last: u64) -> Vec<Plan> {
        let mut plans: Vec<Plan> = (0..count)
            .map(|_| {
                let kind = match self.random.below(12) {
                    0..3 => Kind::Crash,
                    3..6 => Kind::PowerLoss,
                    6 => Kind::Outage,
                    7 | 8 => Kind::Partition,
                    9 => Kind::LossBurst,
                    10 => Kind::SlowLink,
                    _ => Kind::ClockSkew,
                };
                Plan { height: 1 + self.random.below(last.max(2) - 1), kind }
            })
            .collect();
        plans.sort_by_key(|plan| plan.height);
        plans
    }

    /// Begins a fault; it ends by itself.
    pub fn begin(&mut self, kind: Kind) -> Result<(), Violation> {
        let member = self.random.below(self.members.len() as u64) as usize;
        let lasts = 1_000 + self.random.below(9_000);
        self.trace.event(self.time, member, kind.name(), &[lasts]);
        match kind {
            Kind::Crash => self.strike(member, End::Kill),
            Kind::PowerLoss => self.strike(member, End::PowerLoss),
            Kind::Outage => {
                for member in 0..self.members.len() {
                    if self.members[member].running.is_some() {
                        let pause = 100 + self.random.below(4000);
                        self.end(member, End::PowerLoss, pause);
                    }
                }
            }
            Kind::Partition => {
                for i in 0..self.members.len() {
                    self.network.parts[i] = self.random.below(2) as u8;
                }
            }
            Kind::LossBurst => self.network.loss_permille = 200 + self.random.below(600),
            Kind::SlowLink => self.network.slow_ms[member] = 300 + self.random.below(3000),
            Kind::ClockSkew => self.members[member].skew_ms = self.random.below(120_000) as i64 - 60_000,
            Kind::Byzantine => {}
        }
        self.faults.push(Ongoing { kind, member, healed: false });
        self.at(lasts, Event::Heal(self.faults.len() - 1));
        Ok(())
    }

    /// Ends a member's life, at once or inside one of its next operations.
    fn strike(&mut self, member: usize, end: End) {
        if self.members[member].running.is_none() {
            return;
        }
        if self.chance(200) {
            let pause = 100 + self.random.below(6000);
            return self.end(member, end, pause);
        }
        let moment = [Moment::Before, Moment::Amid, Moment::After][self.random.below(3) as usize];
        let operations = self.random.below(24);
        self.members[member].disk.set_trap(Some(Trap { operations, moment, end }));
    }

    /// Ends a fault.
    pub fn heal(&mut self, fault: usize) -> Result<(), Violation> {
        if std::mem::replace(&mut self.faults[fault].healed, true) {
            return Ok(());
        }
        let Ongoing { kind, member, .. } = self.faults[fault];
        self.trace.event(self.time, member, "heal", &[fault as u64]);
        // The last of several that overlap puts things back.
        let goes_on = self.faults.iter().any(|other| other.kind == kind && !other.healed);
        match kind {
            Kind::Crash | Kind::PowerLoss | Kind::Outage | Kind::Byzantine => {}
            Kind::SlowLink => self.network.slow_ms[member] = 0,
            Kind::ClockSkew => self.members[member].skew_ms = 0,
            _ if goes_on => {}
            Kind::LossBurst => self.network.loss_permille = self.network.usual_loss_permille,
            Kind::Partition => {
                self.network.parts.fill(0);
                for a in 0..self.members.len() {
                    for b in a + 1..self.members.len() {
                        self.connect(a, b);
                    }
                }
                for i in 0..self.members.len() {
                    self.settle(i)?;
                }
            }
        }
        Ok(())
    }

    /// Ends all faults, and takes away what may still come of them.
    pub fn heal_all(&mut self) -> Result<(), Violation> {
        for fault in 0..self.faults.len() {
            self.heal(fault)?;
        }
        self.relapse_permille = 0;
        for member in &self.members {
            member.disk.set_trap(None);
        }
        Ok(())
    }
}
