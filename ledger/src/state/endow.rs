//! Coins without work, for tests and the simulation: a real network starts with none.

use super::{Key, State, money::add};
use ailo_protocol::{Address, Amount};

/// Puts coins into a wallet as if they had been earned.
pub(crate) fn endow(state: &mut State, wallet: Address, amount: Amount) {
    let (mut supply, mut account) = (state.supply(), state.account(&wallet));
    add(&mut supply.minted, amount);
    add(&mut supply.free, amount);
    add(&mut account.free, amount);
    state.set(Key::Supply, supply);
    state.set(Key::Account(wallet), account);
    state.commit(vec![Key::Supply, Key::Account(wallet)]);
}
