//! What a request may cost, all its texts together and however often their routes are laid anew: its own `max_alc`, and what its key may spend.

use crate::inference::payment::{Budget, Unpayable};
use ailo_protocol::Amount;
use std::sync::{Arc, Mutex, PoisonError};

/// The money of one request.
pub(super) struct Spending {
    /// Whom else it is counted for.
    key: Arc<dyn Budget>,
    most: Option<Amount>,
    spent: Mutex<Amount>,
}

impl Spending {
    /// Nothing is spent yet; `most` is all that may be, if the request says so.
    pub fn new(key: Arc<dyn Budget>, most: Option<Amount>) -> Arc<Spending> {
        Arc::new(Spending { key, most, spent: Mutex::default() })
    }

    /// What was spent.
    pub fn spent(&self) -> Amount {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget for Spending {
    fn spend(&self, cost: Amount) -> Result<(), Unpayable> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Amount(spent.0.saturating_add(cost.0));
        if let Some(most) = self.most.filter(|most| all > *most) {
            return Err(Unpayable::Request { spent: *spent, most, asked: cost });
        }
        self.key.spend(cost)?;
        *spent = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A key that may spend so much in all.
    struct Key(Mutex<u64>);

    impl Budget for Key {
        fn spend(&self, cost: Amount) -> Result<(), Unpayable> {
            let mut left = self.0.lock().unwrap();
            let (limit, spent) = (Amount(100), Amount(100 - *left));
            *left = left.checked_sub(cost.0).ok_or(Unpayable::Key { spent, limit, asked: cost })?;
            Ok(())
        }
    }

    #[test]
    fn a_request_costs_no_more_than_it_says_whatever_is_paid_again() {
        let key = Arc::new(Key(Mutex::new(100)));
        let request = Spending::new(key.clone(), Some(Amount(50)));
        // Three routes, each paid from the beginning.
        request.spend(Amount(20)).unwrap();
        request.spend(Amount(20)).unwrap();
        let refused = Unpayable::Request { spent: Amount(40), most: Amount(50), asked: Amount(20) };
        assert_eq!(request.spend(Amount(20)), Err(refused));
        request.spend(Amount(10)).unwrap();
        assert_eq!(
            (request.spent(), *key.0.lock().unwrap()),
            (Amount(50), 50),
            "what was refused cost nobody anything"
        );

        // Without a limit of its own it is the key's, and what that refuses the request has not spent.
        let other = Spending::new(key.clone(), None);
        assert!(matches!(other.spend(Amount(51)), Err(Unpayable::Key { .. })));
        other.spend(Amount(50)).unwrap();
        assert_eq!(other.spent(), Amount(50));
        let free = Spending::new(key, Some(Amount::ZERO));
        assert!(free.spend(Amount::ZERO).is_ok() && free.spend(Amount(1)).is_err());
    }
}
