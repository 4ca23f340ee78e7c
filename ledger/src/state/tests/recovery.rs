use super::*;

fn ledger() -> Ledger {
    let mut ledger = Ledger::new(3, |params| params.ledger.confirmations = 0);
    ledger.fund(wallet(0), ALC(100));
    ledger
}

fn key(i: u8) -> Keypair {
    Keypair::from_seed([150 + i; 32])
}

fn commitment(ledger: &Ledger, key: &Keypair) -> Hash {
    recovery_commitment(&ledger.state.network(), key.public())
}

fn set(ledger: &Ledger, by: &Keypair, recovery: &Keypair) -> Transaction {
    ledger.sign(by, Body::SetRecovery { commitment: commitment(ledger, recovery) })
}

fn recover(ledger: &Ledger, by: &Keypair, to: &Keypair, next: &Keypair) -> Transaction {
    let account = wallet(0);
    let count = ledger.state.account(&account).recoveries;
    let next = commitment(ledger, next);
    ledger.sign(by, recover_body(ledger, account, count, to, next))
}

fn send(ledger: &Ledger, by: &Keypair) -> Transaction {
    ledger.sign(by, Body::Transfer { to: wallet(1), amount: ALC(1), memo: String::new() })
}

#[test]
fn a_recovery_gives_the_account_another_key_and_the_old_one_signs_for_nothing() {
    let mut ledger = ledger();
    ledger.block(vec![set(&ledger, &wallet_key(0), &key(0))]);
    ledger.block(vec![recover(&ledger, &key(0), &key(5), &key(1))]);
    assert_eq!(ledger.refusal(&send(&ledger, &wallet_key(0))), Rejection::KeyRotated { account: wallet(0) });
    let before = ledger.free(0);
    ledger.block(vec![send(&ledger, &key(5))]);
    assert!(before.0 - ledger.free(0).0 >= ALC(1).0, "the new key moves the account's coins");
    assert_eq!(ledger.state.account_of(key(5).public()), wallet(0));
    let to_key = Body::Transfer { to: Address::from(key(5).public()), amount: ALC(1), memo: String::new() };
    ledger.fund(wallet(1), ALC(5));
    let stuck = ledger.sign(&wallet_key(1), to_key);
    assert_eq!(ledger.refusal(&stuck), Rejection::KeyOfAnother { account: wallet(0) }, "nobody could move them");
}

#[test]
fn a_thief_of_the_signing_key_cannot_replace_the_recovery_key() {
    let mut ledger = ledger();
    ledger.block(vec![set(&ledger, &wallet_key(0), &key(0))]);
    assert_eq!(ledger.refusal(&set(&ledger, &wallet_key(0), &key(9))), Rejection::RecoverySet);
    let by_thief = recover(&ledger, &wallet_key(0), &key(9), &key(9));
    assert_eq!(ledger.refusal(&by_thief), Rejection::NotTheRecoveryKey);
    // However many transactions the thief squeezes in, the recovery does not depend on the account's nonce.
    let good = recover(&ledger, &key(0), &key(5), &key(1));
    ledger.block(vec![send(&ledger, &wallet_key(0))]);
    ledger.block(vec![good]);
    assert_eq!(ledger.refusal(&send(&ledger, &wallet_key(0))).code(), "KEY_ROTATED");
}

#[test]
fn each_recovery_key_works_once() {
    let mut ledger = ledger();
    ledger.block(vec![set(&ledger, &wallet_key(0), &key(0))]);
    let first = recover(&ledger, &key(0), &key(5), &key(1));
    assert_eq!(ledger.refusal(&recover(&ledger, &key(0), &key(5), &key(0))), Rejection::RecoveryKeyUsed);
    ledger.block(vec![first.clone()]);
    assert_eq!(ledger.refusal(&first), Rejection::NotTheRecoveryKey);
    let second = |ledger: &Ledger| recover(ledger, &key(1), &key(6), &key(2));
    assert_eq!(ledger.refusal(&second(&ledger)).code(), "RECOVERY_TOO_SOON", "once an epoch");
    ledger.pass(60_000);
    ledger.block(vec![second(&ledger)]);
    assert_eq!(ledger.refusal(&send(&ledger, &key(5))).code(), "KEY_ROTATED");
    ledger.block(vec![send(&ledger, &key(6))]);
    // Back to the commitment of a used key: the old transaction still does not count again.
    ledger.pass(60_000);
    ledger.block(vec![recover(&ledger, &key(2), &key(7), &key(0))]);
    ledger.pass(60_000);
    let again = ledger.sign(&key(0), first.unsigned.body);
    assert_eq!(ledger.refusal(&again), Rejection::BadNonce { expected: 3, got: 0 });
}

#[test]
fn a_key_with_an_account_of_its_own_or_of_another_is_not_taken() {
    let mut ledger = ledger();
    ledger.fund(wallet(1), ALC(1));
    ledger.block(vec![set(&ledger, &wallet_key(0), &key(0))]);
    assert_eq!(ledger.refusal(&recover(&ledger, &key(0), &wallet_key(1), &key(1))), Rejection::KeyTaken);
    ledger.block(vec![recover(&ledger, &key(0), &wallet_key(0), &key(1))]);
    ledger.block(vec![send(&ledger, &wallet_key(0))]);
    assert_eq!(ledger.state.account(&wallet(0)).recovery, Some(commitment(&ledger, &key(1))), "the same key may stay");
}

#[test]
fn an_empty_account_is_recovered_for_what_it_has() {
    let mut ledger = ledger();
    ledger.fund(wallet(2), Amount(1_000_000));
    let body = Body::SetRecovery { commitment: commitment(&ledger, &key(0)) };
    ledger.block(vec![ledger.sign(&wallet_key(2), body)]);
    assert!(ledger.free(2) < Amount(1_000_000));
    let next = commitment(&ledger, &key(1));
    ledger.block(vec![ledger.sign(&key(0), recover_body(&ledger, wallet(2), 0, &key(5), next))]);
    assert_eq!(ledger.state.account(&wallet(2)).key, Some(*key(5).public()));
}

#[test]
fn a_user_name_is_unique_and_free_again_when_given_up() {
    let mut ledger = ledger();
    ledger.fund(wallet(1), ALC(1));
    let name = |text: &str| Some(text.parse::<Username>().unwrap());
    let take = |ledger: &Ledger, i: u8, name| ledger.sign(&wallet_key(i), Body::RegisterUsername { name });
    ledger.block(vec![take(&ledger, 0, name("ada"))]);
    assert_eq!(ledger.state.owner(&name("ada").unwrap()), Some(wallet(0)));
    assert_eq!(ledger.refusal(&take(&ledger, 1, name("ada"))), Rejection::UsernameTaken);
    assert_eq!(ledger.refusal(&take(&ledger, 1, Some(Username([b'A'; 24])))), Rejection::BadUsername);
    ledger.block(vec![take(&ledger, 0, name("grace"))]);
    ledger.block(vec![take(&ledger, 1, name("ada"))]);
    ledger.block(vec![take(&ledger, 0, None)]);
    assert_eq!(ledger.state.owner(&name("grace").unwrap()), None);
    assert_eq!(ledger.state.account(&wallet(0)).name, None);
    assert_eq!(ledger.state.account(&wallet(1)).name, name("ada"));
}
