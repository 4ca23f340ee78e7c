//! Parameters of the networks that the project knows, read from the commented files in `config/`, which are the only
//! place where the numbers stand; and changes of single numbers by their text.

use crate::params::Params;

/// Real networks; what any other file of parameters states is laid over it.
pub const MAIN: &str = include_str!("../../config/main.toml");
/// Public test networks.
pub const TEST: &str = include_str!("../../config/test.toml");
/// Networks on one machine.
pub const DEV: &str = include_str!("../../config/dev.toml");

/// A text that states no usable parameters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresetError {
    /// Not TOML, or not the parameters' shape, or out of range.
    #[error("{0}")]
    Invalid(String),
    /// A change that is not written as one.
    #[error("{change}: {why} (write SECTION.KEY=VALUE, such as training.inner_steps=10)")]
    Change {
        /// What was asked for.
        change: String,
        /// What is wrong with it.
        why: String,
    },
}

fn invalid(error: impl std::fmt::Display) -> PresetError {
    PresetError::Invalid(error.to_string().trim_end().to_string())
}

/// Parameters of a real network.
pub fn main() -> Params {
    stated("")
}

/// Parameters of a public test network.
pub fn test() -> Params {
    stated(TEST)
}

/// Parameters of a network on one machine.
pub fn dev() -> Params {
    stated(DEV)
}

fn stated(text: &str) -> Params {
    overlay(text).expect("the files in config/ are part of the program, and a test reads each")
}

/// The parameters that `text` (TOML) states, and those of a real network where it states none.
pub fn overlay(text: &str) -> Result<Params, PresetError> {
    let mut table: toml::Table = toml::from_str(MAIN).map_err(invalid)?;
    for (section, values) in toml::from_str::<toml::Table>(text).map_err(invalid)? {
        match (table.get_mut(&section), values) {
            (Some(toml::Value::Table(base)), toml::Value::Table(values)) => base.extend(values),
            (_, values) => _ = table.insert(section, values),
        }
    }
    read(table)
}

/// `params` with single numbers changed, each as `section.key=value`.
pub fn change(params: &Params, changes: &[String]) -> Result<Params, PresetError> {
    let mut table = toml::Table::try_from(params).map_err(invalid)?;
    for change in changes {
        let bad = |why: String| PresetError::Change { change: change.clone(), why };
        let (key, value) = change.split_once('=').ok_or_else(|| bad("it has no '='".into()))?;
        let (section, name) = key.split_once('.').ok_or_else(|| bad("it has no '.'".into()))?;
        let section = table
            .get_mut(section)
            .and_then(toml::Value::as_table_mut)
            .ok_or_else(|| bad(format!("there is no section {section}")))?;
        let slot = section.get_mut(name).ok_or_else(|| bad(format!("there is no parameter {name}")))?;
        // Amounts are strings in the text form, though they look like numbers.
        let quoted = if slot.is_str() { format!("v = \"{value}\"") } else { format!("v = {value}") };
        let parsed: toml::Table = toml::from_str(&quoted).map_err(|_| bad(format!("'{value}' is no value")))?;
        *slot = parsed["v"].clone();
    }
    read(table)
}

fn read(table: toml::Table) -> Result<Params, PresetError> {
    let params: Params = table.try_into().map_err(invalid)?;
    params.validate().map_err(invalid)?;
    Ok(params)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Amount, params::Tokenizer};

    #[test]
    fn every_file_in_config_states_usable_parameters() {
        let (main, test, dev) = (main(), test(), dev());
        assert_eq!((main.ledger.confirmations, test.ledger.confirmations, dev.ledger.confirmations), (10, 10, 0));
        assert_eq!(main.ledger.fee, Amount(1_000_000));
        assert_eq!(main.ledger.stake_tiers.last().map(|t| t.up_to), Some(u32::MAX));
        assert_eq!((test.ledger.fee, dev.ledger.fee), (main.ledger.fee, main.ledger.fee));
        assert_eq!(dev.model.tokenizer, Tokenizer::Bytes);
    }

    #[test]
    fn a_file_states_only_what_differs_and_mistakes_in_it_are_named() {
        let params = overlay("[ledger]\nfee = \"0.5\"\n[training]\nbatch = 3\n").unwrap();
        assert_eq!((params.ledger.fee, params.training.batch), ("0.5".parse().unwrap(), 3));
        assert_eq!(params.round, main().round);
        for (wrong, named) in [
            ("[ledger]\nfees = \"0.5\"", "fees"),
            ("[legder]\nfee = \"0.5\"", "legder"),
            ("ledger = 3", "ledger"),
            ("[ledger]\nfee = ", "fee"),
            ("[training]\nbatch = 0", "batch"),
        ] {
            let error = overlay(wrong).unwrap_err().to_string();
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }

    #[test]
    fn single_numbers_can_be_changed_and_mistakes_are_named() {
        let changed = change(&dev(), &["training.inner_steps=7".into(), "ledger.fee=0.5".into()]).unwrap();
        assert_eq!((changed.training.inner_steps, changed.ledger.fee), (7, "0.5".parse().unwrap()));
        for wrong in ["training.inner_steps", "nothing.x=1", "training.nothing=1", "training.inner_steps=many"] {
            let error = change(&dev(), &[wrong.into()]).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("SECTION.KEY=VALUE"), "{error}");
        }
        assert!(change(&dev(), &["training.inner_steps=0".into()]).unwrap_err().to_string().contains("inner_steps"));
    }
}
