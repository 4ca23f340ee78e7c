//! What the operator may change while a node runs, and the token that tells the operator from everybody else.
//!
//! At each start the node writes a new token to `operator.token` in its data folder, for its owner's eyes alone, and takes it away
//! when it stops: whoever can read the file may operate the node. What is changed lasts until the node stops; its settings are
//! what it starts with.

use crate::{
    cli::{OperatorArgs, PowerArgs, TrainingArgs},
    client::{Client, json},
    datadir::{self, DataDir},
    error::NodeError,
    output::say,
    rpc::types::At,
};
use ailo_protocol::{file::write_private, keys};
use axum::http::{HeaderMap, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};
use tokio::sync::watch;

/// The token's file in a node's folder.
pub const FILE: &str = "operator.token";
/// Shares of the time that training may compute, in percent.
pub const POWER: RangeInclusive<u8> = 20..=90;
/// Bytes of the file that are looked at, at most: a token has 64.
const MAX_TOKEN: usize = 256;

/// What an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Controls {
    /// Whether the node trains. One that is told to stop hands in what it has begun, begins nothing, and tells the ledger so with its
    /// next heartbeat.
    pub training: bool,
    /// Share of the time, in percent, that training may compute.
    pub power: u8,
}

/// A power beyond its range.
#[derive(Debug, thiserror::Error)]
#[error("power is {0}: choose {first} to {last} percent", first = POWER.start(), last = POWER.end())]
pub struct BeyondPower(pub u8);

/// The controls of a running node, and who may use them.
pub struct Operator {
    path: PathBuf,
    /// Hash of the token. Hashes are compared, in constant time: how a wrong token differs from the right one shows nowhere.
    token: blake3::Hash,
    controls: watch::Sender<Controls>,
}

impl Operator {
    /// Makes a token and writes it into the folder.
    pub fn start(dir: &DataDir, controls: Controls) -> Result<Operator, NodeError> {
        let path = dir.path(FILE);
        let token = hex::encode(keys::random_bytes());
        write_private(&path, token.as_bytes()).map_err(|e| NodeError::file("write", &path, e))?;
        Ok(Operator { path, token: blake3::hash(token.as_bytes()), controls: watch::Sender::new(controls) })
    }

    /// The token's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the token.
    pub fn knows(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == self.token
    }

    /// Whether a request comes with the token, as `Authorization: Bearer TOKEN`.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = said.and_then(|said| said.split_once(' '));
        bearer.is_some_and(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && self.knows(token.trim()))
    }

    /// What is set now.
    pub fn controls(&self) -> Controls {
        *self.controls.borrow()
    }

    /// Lets the node train, or not.
    pub fn set_training(&self, on: bool) {
        tracing::info!(on, "the operator sets training");
        self.controls.send_modify(|controls| controls.training = on);
    }

    /// Sets the share of the time that training may compute.
    pub fn set_power(&self, percent: u8) -> Result<(), BeyondPower> {
        if !POWER.contains(&percent) {
            return Err(BeyondPower(percent));
        }
        tracing::info!(percent, "the operator sets the power");
        self.controls.send_modify(|controls| controls.power = percent);
        Ok(())
    }

    /// Takes the token away. Best effort: nobody asks for it once the node has stopped, and the next start makes another.
    pub fn stop(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The token of the node that runs in this folder.
pub fn token(dir: &Path) -> Result<String, NodeError> {
    let path = dir.join(FILE);
    let text = fs::read_to_string(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => NodeError::Rpc(format!(
            "no node runs in {}: name the folder of one that does with --data-dir",
            dir.display()
        )),
        _ => NodeError::file("read the operator's token", &path, e),
    })?;
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(NodeError::Usage(format!("{} holds no token: start the node again", path.display())));
    }
    Ok(token.into())
}

/// `ailo-node training on|off`
pub async fn training(args: TrainingArgs) -> Result<(), NodeError> {
    set(&args.operator, "ailo_setTraining", ("on", json(&(args.state == "on")))).await
}

/// `ailo-node power PERCENT`
pub async fn power(args: PowerArgs) -> Result<(), NodeError> {
    set(&args.operator, "ailo_setPower", ("percent", json(&args.percent))).await
}

async fn set(args: &OperatorArgs, method: &str, param: (&str, serde_json::Value)) -> Result<(), NodeError> {
    let dir = args.data_dir.clone().map_or_else(|| datadir::default_dir("dev"), Ok)?;
    let set: At<Controls> = Client::operating(&dir)?.call(method, &[param]).await?;
    let trains = if set.value.training { "trains" } else { "rests once what it has begun is handed in" };
    let power = set.value.power;
    say(&set, format_args!("the node {trains}; training may compute {power} % of the time, until the node stops"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_token_is_the_owners_alone_new_at_each_start_and_gone_after_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let controls = Controls { training: true, power: 90 };
        let operator = Operator::start(&dir, controls).unwrap();
        assert_eq!(fs::metadata(operator.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let first = token(folder.path()).unwrap();
        assert!(first.len() == 64 && operator.knows(&first));

        let again = Operator::start(&dir, controls).unwrap();
        assert!(!again.knows(&first) && again.knows(&token(folder.path()).unwrap()));
        again.stop();
        assert!(token(folder.path()).unwrap_err().to_string().contains("no node runs"));
    }

    #[test]
    fn only_the_whole_token_in_its_header_admits() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let operator = Operator::start(&dir, Controls { training: true, power: 90 }).unwrap();
        let right = token(folder.path()).unwrap();
        let admits =
            |said: &str| operator.admits(&HeaderMap::from_iter([(header::AUTHORIZATION, said.parse().unwrap())]));
        assert!(admits(&format!("Bearer {right}")) && admits(&format!("bearer  {right} ")));
        for wrong in ["", "Bearer", "Bearer ", &right, &format!("Basic {right}"), &format!("Bearer {}", &right[1..])] {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(!admits(&format!("Bearer {right}0")) && !operator.admits(&HeaderMap::new()));
    }

    #[test]
    fn what_is_set_is_set_and_power_has_a_range() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let operator = Operator::start(&dir, Controls { training: true, power: 90 }).unwrap();
        operator.set_training(false);
        operator.set_power(20).unwrap();
        for beyond in [0, 19, 91, 255] {
            assert!(operator.set_power(beyond).unwrap_err().to_string().contains("20 to 90"));
        }
        assert_eq!(operator.controls(), Controls { training: false, power: 20 });
    }
}
