//! What the owners of wallets do. Clients send transfers, and again what they see nothing of, now and then two different
//! ones with one nonce; they take transfers back, take user names, deposit coins for inference and take them back, and lose their keys and recover. Members' wallets stake
//! and unstake, unjail, report, challenge, propose and vote. What becomes of a transfer, its id decides ([`Fate`]).

use super::{
    HEIGHTS, TRANSFERS, cast,
    world::{Event, World},
};
use crate::{
    Body, Transaction,
    invariants::Violation,
    state::{State, TransferStatus},
    transaction::{recovery_agreement, recovery_commitment},
};
use ailo_protocol::{Address, Amount, Hash, Keypair, NodeId, Username, amount::UNITS_PER_ALC};
use std::collections::{BTreeMap, BTreeSet};

/// Transactions that a client has under way at most.
const UNDER_WAY: u64 = 6;
/// What is not in a block by then is sent again.
const AGAIN_MS: u64 = 4_000;
/// Transfers are looked at for so many blocks.
const RECENT: u64 = 60;
/// Recoveries of one wallet, at most.
const RECOVERIES: u64 = 3;
/// What is proposed, now and then.
const PROPOSALS: [&str; 4] = ["ledger.memo_bytes=100", "ledger.jail_ms=8000", "ledger.report_bond=2", "round.pot=2"];

/// What members and clients make of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody honest attests it, and all members report it at once.
    Fraud,
    /// Nobody honest attests it, and its sender takes it back.
    Regretted,
    /// Nobody honest attests it, and nothing is done about it.
    Doubted,
    /// It is confirmed, and all members report it then.
    LateFraud,
    /// One member reports it.
    Grudge,
    /// One member reports it and thinks better of it.
    Relented,
    /// Nothing is wrong with it.
    Good,
}

fn fate(id: &Hash) -> Fate {
    match id.0[0] % 32 {
        0 => Fate::Fraud,
        1 => Fate::Regretted,
        2 => Fate::Doubted,
        3 => Fate::LateFraud,
        4 => Fate::Grudge,
        5 => Fate::Relented,
        _ => Fate::Good,
    }
}

/// Whether enough members report this transfer to reverse it.
pub fn is_fraud(id: &Hash) -> bool {
    matches!(fate(id), Fate::Fraud | Fate::LateFraud)
}

/// A wallet with its owner.
pub struct Wallet {
    number: usize,
    key: Keypair,
    account: Address,
    /// The member that works for it.
    member: Option<usize>,
    next: u64,
    /// What was sent with each nonce that is in no block yet, and when it is sent again.
    under_way: BTreeMap<u64, (Vec<Transaction>, u64)>,
    /// The key before the last recovery, which a thief has.
    stolen: Option<Keypair>,
    /// Proposals voted on, and reports taken back.
    voted: BTreeSet<u64>,
    withdrawn: BTreeSet<Hash>,
}

impl Wallet {
    /// A client's, who has sent nothing.
    pub fn of_client(number: usize) -> Wallet {
        Wallet::new(number, cast::client_key(number), None)
    }

    /// A member's, in a world of so many clients.
    pub fn of_member(clients: usize, member: usize) -> Wallet {
        Wallet::new(clients + member, cast::member_wallet_key(member), Some(member))
    }

    fn new(number: usize, key: Keypair, member: Option<usize>) -> Wallet {
        Wallet {
            number,
            account: Address::from(key.public()),
            key,
            member,
            next: 0,
            under_way: BTreeMap::new(),
            stolen: None,
            voted: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
        }
    }

    /// Goes on with the nonce and the key that the ledger knows.
    fn follow(&mut self, ledger: &State) {
        let account = ledger.account(&self.account);
        self.under_way.retain(|nonce, _| *nonce >= account.nonce);
        self.next = self.next.max(account.nonce);
        if account.key.is_some_and(|key| key != *self.key.public()) {
            let key = cast::rotated_key(self.number, account.recoveries);
            self.stolen = Some(std::mem::replace(&mut self.key, key));
            self.under_way.clear(); // what the old key has signed is worth nothing any more
            self.next = account.nonce;
        }
    }
}

impl World {
    /// Notes the transfers of the chain's next block.
    pub fn note_transfers(&mut self, height: u64, transfers: Vec<Hash>) {
        let doubted = |id: &&Hash| matches!(fate(id), Fate::Fraud | Fate::Regretted | Fate::Doubted);
        let mut doubtful: Vec<Hash> = transfers.iter().filter(doubted).copied().collect();
        doubtful.sort_unstable();
        self.doubtful.insert(height, doubtful);
        self.recent.retain(|(at, _)| at + RECENT > height);
        self.recent.extend(transfers.into_iter().map(|id| (height, id)));
    }

    /// A wallet's owner looks at the ledger and does something.
    pub fn wallet_acts(&mut self, number: usize) -> Result<(), Violation> {
        if self.script.is_some() {
            return Ok(());
        }
        self.wallets[number].follow(&self.ledger);
        let to_send = match self.wallets[number].member {
            Some(member) => self.member_wishes(number, member),
            None => self.client_wishes(number),
        };
        for transaction in to_send {
            let member = self.random.below(self.members.len() as u64) as usize;
            self.submit(member, &transaction);
            self.settle(member)?;
            // What is in a block already is sent again now and then, as by somebody who missed it.
            if self.chance(50) {
                let late = 500 + self.random.below(3000);
                self.at(late, Event::Again(Box::new(transaction)));
            }
        }
        Ok(())
    }

    fn sign(&self, number: usize, nonce: u64, body: Body) -> Transaction {
        let time_ms = cast::GENESIS_MS + self.time;
        Transaction::sign(&self.network_id, &self.wallets[number].key, nonce, time_ms, body)
    }

    fn client_wishes(&mut self, number: usize) -> Vec<Transaction> {
        let mut to_send = Vec::new();
        let wallet = &self.wallets[number];
        let due = wallet.under_way.iter().filter(|(_, (_, again))| *again <= self.time).map(|(nonce, _)| *nonce);
        for nonce in due.collect::<Vec<u64>>() {
            let (sent, again) = &self.wallets[number].under_way[&nonce];
            let mut transactions = (sent.clone(), *again).0;
            let transfers = transactions.iter().all(|t| matches!(t.unsigned.body, Body::Transfer { .. }));
            if !transfers || self.chance(200) {
                // What the ledger may have become unable to take gives way.
                let body = self.transfer(number, true);
                transactions = vec![self.sign(number, nonce, body)];
            }
            to_send.extend(transactions.iter().cloned());
            self.wallets[number].under_way.insert(nonce, (transactions, self.time + AGAIN_MS));
        }
        // As many as the seed asks for, in step with the chain; a little faster, so that nobody waits for them.
        let wanted = TRANSFERS * (self.height() + 2) / (HEIGHTS - 1) + 8;
        let under_way: usize = self.wallets.iter().map(|wallet| wallet.under_way.len()).sum();
        let free = (self.wallets[number].under_way.len() as u64) < UNDER_WAY;
        let special = if free { self.client_special(number) } else { None };
        let transfer = free && self.transfers + (under_way as u64) < wanted;
        if special.is_some() || transfer {
            let rivals = 1 + u64::from(special.is_none() && self.chance(40));
            let nonce = self.wallets[number].next;
            let mut transactions = Vec::new();
            for _ in 0..rivals {
                let body = special.clone().unwrap_or_else(|| self.transfer(number, false));
                transactions.push(self.sign(number, nonce, body));
            }
            to_send.extend(transactions.iter().cloned());
            let wallet = &mut self.wallets[number];
            wallet.next += 1;
            wallet.under_way.insert(nonce, (transactions, self.time + AGAIN_MS));
        }
        to_send.extend(self.recovers(number));
        to_send.extend(self.steals(number));
        to_send
    }

    /// Something else than a transfer, now and then.
    fn client_special(&mut self, number: usize) -> Option<Body> {
        let account = self.wallets[number].account;
        let own = |id: &Hash| {
            let transfer = self.ledger.transfer(id).filter(|transfer| transfer.from == account);
            transfer.is_some_and(|transfer| transfer.status == TransferStatus::Pending)
        };
        let regretted = self.recent.iter().map(|(_, id)| *id).find(|id| fate(id) == Fate::Regretted && own(id));
        if let Some(transfer) = regretted {
            return self.chance(500).then_some(Body::Dispute { transfer });
        }
        match self.random.below(120) {
            0 => {
                let name = format!("name-{}", self.random.below(12)).parse::<Username>().ok();
                Some(Body::RegisterUsername { name })
            }
            1 | 2 if self.ledger.account(&account).recovery.is_none() => {
                let key = cast::recovery_key(number, 0);
                Some(Body::SetRecovery { commitment: recovery_commitment(&self.network_id, key.public()) })
            }
            3..7 => {
                let amount = Amount::alc(1 + self.wallets[number].next % 4);
                let fee = self.ledger.params().ledger.fee;
                let most = Amount(amount.0 + fee.0);
                (self.ledger.account(&account).free > most).then_some(Body::Deposit { amount })
            }
            7 | 8 => {
                let deposit = self.ledger.deposit(&account);
                let amount = Amount(deposit.amount.0.saturating_sub(deposit.leaving.0) / 2);
                (amount > Amount::ZERO).then_some(Body::WithdrawDeposit { amount })
            }
            _ => None,
        }
    }

    /// The clients' present keys.
    pub fn requesters(&self) -> impl Iterator<Item = (usize, &Keypair)> {
        self.wallets.iter().filter(|wallet| wallet.member.is_none()).map(|wallet| (wallet.number, &wallet.key))
    }

    fn transfer(&mut self, number: usize, small: bool) -> Body {
        let clients = self.wallets.iter().filter(|wallet| wallet.member.is_none()).count().max(2);
        let other = (number + 1 + self.random.below(clients as u64 - 1) as usize) % clients;
        let to = self.wallets[other].account;
        let free = self.ledger.account(&self.wallets[number].account).free;
        let spends = number == 0 && !small && self.wallets[0].under_way.is_empty() && free > Amount::alc(3);
        let amount = match other {
            _ if spends => Amount(free.0 - UNITS_PER_ALC),
            0 if !small => Amount(1 + self.random.below(5 * UNITS_PER_ALC)),
            _ => Amount(1 + self.random.below(1_000_000)),
        };
        Body::Transfer { to, amount, memo: String::new() }
    }

    /// The owner's key is lost: the recovery key gives the account another one.
    fn recovers(&mut self, number: usize) -> Option<Transaction> {
        let (wallet, account) = (&self.wallets[number], self.ledger.account(&self.wallets[number].account));
        if account.recovery.is_none() || account.recoveries >= RECOVERIES || self.random.below(60) > 0 {
            return None;
        }
        let count = account.recoveries;
        let key = cast::rotated_key(number, count + 1);
        let agreed = key.sign(&recovery_agreement(&self.network_id, &wallet.account, count));
        let next = recovery_commitment(&self.network_id, cast::recovery_key(number, count + 1).public());
        let body = Body::Recover { account: wallet.account, count, key: *key.public(), agreed, next };
        let time_ms = cast::GENESIS_MS + self.time;
        Some(Transaction::sign(&self.network_id, &cast::recovery_key(number, count), 0, time_ms, body))
    }

    /// Who has the key of before the recovery tries to use it.
    fn steals(&mut self, number: usize) -> Option<Transaction> {
        let wallet = &self.wallets[number];
        let stolen = wallet.stolen.as_ref().filter(|_| self.random.below(8) == 0)?;
        let body = Body::Transfer { to: Address([0x77; 20]), amount: Amount(1), memo: String::new() };
        Some(Transaction::sign(&self.network_id, stolen, wallet.next, cast::GENESIS_MS + self.time, body))
    }

    /// One thing at a time, signed anew when nothing is seen of it.
    fn member_wishes(&mut self, number: usize, member: usize) -> Vec<Transaction> {
        let wallet = &self.wallets[number];
        if wallet.under_way.values().any(|(_, again)| *again > self.time) {
            return Vec::new();
        }
        let nonce = self.ledger.account(&wallet.account).nonce;
        let Some(body) = self.member_wish(number, member, nonce) else { return Vec::new() };
        let transaction = self.sign(number, nonce, body);
        let under_way = BTreeMap::from([(nonce, (Vec::new(), self.time + AGAIN_MS))]);
        self.wallets[number].under_way = under_way;
        vec![transaction]
    }

    fn member_wish(&mut self, number: usize, member: usize, nonce: u64) -> Option<Body> {
        let (ledger, node) = (self.ledger.clone(), self.members[member].id());
        let (entry, honest) = (ledger.node(&node)?, self.members[member].is_honest());
        if let Some(until_age) = entry.jailed_until {
            return (until_age <= ledger.age_ms() && self.chance(300)).then_some(Body::Unjail { node });
        }
        if self.staking && entry.stake == Amount::ZERO && (nonce == 0 || self.chance(100)) {
            return Some(Body::Stake { node, amount: cast::STAKE });
        }
        // While somebody breaks the rules, the stake of the others is needed.
        let all_honest = self.members.iter().all(|member| member.is_honest());
        if entry.stake > Amount::ZERO && (all_honest || !honest) && self.chance(15) {
            let amount = if self.chance(500) { entry.stake } else { Amount(entry.stake.0 / 2 + 1) };
            return Some(Body::Unstake { node, amount });
        }
        let poll = ledger.polls().find(|(poll, open)| {
            open.activates.is_none() && open.ends_age > ledger.age_ms() && !self.wallets[number].voted.contains(poll)
        });
        if let Some((proposal, _)) = poll.filter(|_| entry.stake > Amount::ZERO) {
            self.wallets[number].voted.insert(proposal);
            return Some(Body::Vote { proposal, approve: self.chance(800) });
        }
        if self.chance(4) {
            let change = PROPOSALS[self.random.below(PROPOSALS.len() as u64) as usize];
            return Some(Body::Propose { changes: vec![change.into()], why: String::new() });
        }
        let challenge = if self.chance(200) { self.challenge_wish(&ledger, honest) } else { None };
        let accusation = if self.chance(100) { self.accusation_wish(&ledger, honest) } else { None };
        challenge.or(accusation).or_else(|| self.report_wish(number, &ledger, node, honest))
    }

    /// Who watches challenges what is forged; whoever breaks the rules, what is not.
    fn challenge_wish(&mut self, ledger: &State, honest: bool) -> Option<Body> {
        let (next, kept) = (ledger.round().number, ledger.params().ledger.challenge_rounds);
        let past = (next.saturating_sub(kept)..next).filter_map(|number| ledger.past_round(number));
        let made = past.flat_map(|round| round.accepted().into_iter().map(|(maker, _)| (round.number, maker)));
        let mut wanted =
            made.filter(|made| self.forged.contains(made) == honest && !ledger.is_challenged(made.0, &made.1));
        wanted.next().map(|(round, node)| Body::Challenge { round, node })
    }

    /// What a member does about the transfers that it has heard of.
    fn report_wish(&mut self, number: usize, ledger: &State, node: NodeId, honest: bool) -> Option<Body> {
        let validators = ledger.node_count().max(1);
        let own = |id: &Hash| u32::from(id.0[1]) % validators == number as u32 % validators;
        let withdrawn = &self.wallets[number].withdrawn;
        let wish = self.recent.iter().find_map(|(_, id)| {
            let transfer = ledger.transfer(id)?;
            let reported = ledger.reports(id).any(|(reporter, _)| reporter == node);
            let reports = match fate(id) {
                // Whoever breaks the rules reports what nothing is wrong with.
                Fate::Good => !honest,
                Fate::Fraud => honest,
                Fate::LateFraud => honest && transfer.status == TransferStatus::Confirmed,
                Fate::Grudge => own(id),
                Fate::Relented => own(id) && !withdrawn.contains(id),
                Fate::Regretted | Fate::Doubted => false,
            };
            match reported {
                true if fate(id) == Fate::Relented => Some(Body::WithdrawReport { transfer: *id, node }),
                false if reports => Some(Body::Report { transfer: *id, node }),
                _ => None,
            }
        });
        if let Some(Body::WithdrawReport { transfer, .. }) = &wish {
            self.wallets[number].withdrawn.insert(*transfer);
        }
        wish
    }
}
