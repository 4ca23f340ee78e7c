//! Known faults that a build with the feature `plants` can switch on, to show that the simulation finds them. In every
//! other build [`on`] is constantly false, and the faults are not in the program.

macro_rules! plants {
    ($($plant:ident $name:literal $fault:literal,)*) => {
        /// A fault that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plant {
            $(#[doc = $fault] $plant,)*
        }

        impl Plant {
            /// All of them.
            pub const ALL: &'static [Plant] = &[$(Plant::$plant),*];

            /// How the command line calls it.
            pub fn name(self) -> &'static str {
                match self { $(Plant::$plant => $name,)* }
            }

            /// What is wrong then.
            pub fn fault(self) -> &'static str {
                match self { $(Plant::$plant => $fault,)* }
            }
        }
    };
}

plants! {
    UnsyncedAppend "unsynced-append" "A block counts as stored before it is synced to disk.",
    UnsyncedJournal "unsynced-journal" "A ballot is signed before the journal is synced to disk.",
    UnsyncedWal "unsynced-wal" "A ballot is signed before the write-ahead log is synced to disk.",
    UnsyncedOpen "unsynced-open" "What a killed process had written is believed before it is synced to disk.",
    UnsyncedRename "unsynced-rename" "A replaced log counts as stored before its name is on disk.",
    TornFrame "torn-frame-accepted" "A frame is taken without a look at its checksum.",
    WalNotReplayed "wal-not-replayed" "A restarted validator forgets what it had heard.",
    Amnesia "amnesia" "A restarted validator replays nothing and asks no journal what it has signed.",
    ForgottenLock "forgotten-lock" "A validator prevotes what is proposed, whatever it is locked on.",
    CertificateUnchecked "certificate-unchecked" "A synced block is believed whatever signed it.",
    StaleHead "stale-head" "A block is shown as final before it is stored.",
    DoubleSpend "double-spend" "A wallet's transaction is taken whatever its nonce.",
    LostFee "lost-fee" "What is left of a fee leaves escrow and comes nowhere.",
    MintWithoutProof "mint-without-proof" "A round that aborts pays at once, like one that is settled.",
    AttestTwice "attest-double-count" "A node's second attestation of a block counts.",
    NondeterministicOrder "nondeterministic-order" "Confirmers are kept in an order that differs from node to node.",
    EvidenceDropped "evidence-dropped" "Who sees two rival ballots tells nobody.",
    AttestationsDropped "attestations-dropped" "Who sees two attestations of one block by one node tells nobody.",
    ReversedStays "reversed-stays" "A transfer that is reversed after its confirmation stays on the ledger.",
    ReportTwice "report-counts-twice" "A report counts like two.",
    ForgedByHalf "forged-by-half" "A challenge is upheld by half of the power.",
    LotUnchecked "lot-unchecked" "A block may reveal any lot.",
    RotatedKey "rotated-key-signs" "A key that a recovery has replaced still signs for the account.",
}

impl std::str::FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Plant, String> {
        Plant::ALL.iter().copied().find(|plant| plant.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
            format!("there is no such fault; there are {}", names.join(", "))
        })
    }
}

/// Whether this build has the faults.
pub const BUILT: bool = cfg!(feature = "plants");

#[cfg(feature = "plants")]
mod planted {
    use super::Plant;
    use std::cell::Cell;

    thread_local! {
        static PLANT: Cell<Option<Plant>> = const { Cell::new(None) };
        static TURN: Cell<usize> = const { Cell::new(0) };
    }

    /// Whether this thread suffers from the fault.
    pub fn on(plant: Plant) -> bool {
        PLANT.get() == Some(plant)
    }

    /// Plants a fault for this thread, or none.
    pub fn plant(plant: Option<Plant>) {
        PLANT.set(plant);
        TURN.set(0);
    }

    /// A number that differs from call to call, and not from run to run.
    pub fn turn() -> usize {
        TURN.set(TURN.get() + 1);
        TURN.get()
    }
}

#[cfg(not(feature = "plants"))]
mod planted {
    use super::Plant;

    /// Never: this build has no faults to plant.
    pub const fn on(_: Plant) -> bool {
        false
    }

    /// Nothing to plant in this build.
    pub const fn plant(_: Option<Plant>) {}

    /// Nothing differs in this build.
    pub const fn turn() -> usize {
        0
    }
}

pub use planted::{on, plant, turn};
