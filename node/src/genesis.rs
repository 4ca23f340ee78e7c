//! Network files: reading, writing, and the founding of the development network and of networks by `genesis`.

use crate::{cli::GenesisArgs, datadir, error::NodeError, output, progress::Progress};
use ailo_protocol::{
    Genesis,
    contribution::Payload,
    genesis::Founder,
    params::{ModelConfig, Params, Tokenizer},
    presets,
};
use ailo_training::{codec, dataset::Dataset, model::parameter_count, state::ModelState};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970 (UTC).
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Reads and checks a network file.
pub fn read(path: &Path) -> Result<Genesis, NodeError> {
    let text = std::fs::read_to_string(path).map_err(|e| NodeError::file("read the network file", path, e))?;
    let unusable = |why: String| NodeError::Network { path: path.display().to_string(), why };
    let genesis: Genesis = toml::from_str(&text).map_err(|e| unusable(e.to_string().trim_end().to_string()))?;
    genesis.validate().map_err(|e| unusable(e.to_string()))?;
    payload_fits(&genesis.params).map_err(unusable)?;
    Ok(genesis)
}

/// Writes a network file, with its id as a comment.
pub fn write(path: &Path, genesis: &Genesis) -> Result<(), NodeError> {
    let text = toml::to_string_pretty(genesis)
        .map_err(|e| NodeError::Network { path: path.display().to_string(), why: e.to_string() })?;
    let text = format!(
        "# Founding document of an ailo network. Its id, the hash of all that follows, is\n# {}\n\n{text}",
        genesis.id()
    );
    datadir::write_atomically(path, text.as_bytes())
}

/// The network's dataset: the named files, or the embedded corpus.
pub fn open_data(paths: &[PathBuf], model: &ModelConfig) -> Result<Dataset, NodeError> {
    let _reading = Progress::wait("reading the data");
    match paths {
        [] if model.tokenizer == Tokenizer::Bytes => Ok(Dataset::embedded()),
        [] => Err(NodeError::Usage(
            "the embedded corpus is for byte-level models: name the network's dataset with --data".into(),
        )),
        [path] => Ok(Dataset::open(path, model.tokenizer)?),
        paths => {
            let mut text = Vec::new();
            for path in paths {
                text.extend(std::fs::read(path).map_err(|e| NodeError::file("read", path, e))?);
            }
            Ok(Dataset::from_text(&format!("{} files", paths.len()), &text, model.tokenizer)?)
        }
    }
}

/// A contribution to this model must fit the network's own bound.
fn payload_fits(params: &Params) -> Result<(), String> {
    let needed = Payload::FRAME_BYTES + codec::encoded_len(params.training.codec, parameter_count(&params.model));
    let bound = params.round.max_payload_bytes;
    if needed as u64 > bound {
        return Err(format!("an update of this model has {needed} bytes: raise round.max_payload_bytes above {bound}"));
    }
    Ok(())
}

/// Founds a network: computes the initial model's root and checks everything.
pub fn found(
    name: &str,
    seed: u64,
    founders: Vec<Founder>,
    data: &Dataset,
    params: Params,
) -> Result<Genesis, NodeError> {
    payload_fits(&params).map_err(|why| NodeError::Network { path: name.into(), why })?;
    let making = Progress::wait("making the first model");
    let model_root = ModelState::initial(&params.model, seed).root();
    drop(making);
    let genesis =
        Genesis { name: name.into(), time_ms: now_ms(), seed, founders, dataset: data.describe(), model_root, params };
    genesis.validate().map_err(|e| NodeError::Network { path: name.into(), why: e.to_string() })?;
    Ok(genesis)
}

/// Parameters of a network of `nodes` nodes on one machine.
pub fn local_params(nodes: u32, confirmations: u32) -> Params {
    let mut params = presets::dev();
    params.round.target_participants = nodes;
    params.ledger.confirmations = confirmations;
    params
}

/// The `genesis` command.
pub fn command(args: &GenesisArgs) -> Result<(), NodeError> {
    if args.out.exists() {
        return Err(NodeError::Usage(format!("{} exists already: choose another --out", args.out.display())));
    }
    let params = match args.params.as_str() {
        "main" => presets::main(),
        "test" => presets::test(),
        "dev" => presets::dev(),
        path => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| NodeError::file("read the parameters", Path::new(path), e))?;
            presets::overlay(&text)
                .map_err(|e| NodeError::Usage(format!("the parameters in {path} are not valid: {e}")))?
        }
    };
    let params = presets::change(&params, &args.set).map_err(|e| NodeError::Usage(format!("--set {e}")))?;
    let founders = args.founders.iter().map(|text| parse_founder(text)).collect::<Result<_, _>>()?;
    let data = open_data(&args.data, &params.model)?;
    let genesis = found(&args.name, args.seed, founders, &data, params)?;
    write(&args.out, &genesis)?;
    let id = genesis.id();
    output::say(&json!({ "file": args.out, "network": id }), format_args!("{}\nnetwork id {id}", args.out.display()))
}

fn parse_founder(text: &str) -> Result<Founder, NodeError> {
    let bad = |why: String| {
        NodeError::Usage(format!("--founder '{text}': {why} (write NODE,WALLET or NODE,WALLET,validator)"))
    };
    let parts: Vec<&str> = text.split(',').collect();
    let (node, wallet, validator) = match parts[..] {
        [node, wallet] => (node, wallet, false),
        [node, wallet, "validator"] => (node, wallet, true),
        _ => return Err(bad("it has other parts".into())),
    };
    Ok(Founder {
        node: node.parse().map_err(|_| bad(format!("'{node}' is not a node key of 64 hexadecimal digits")))?,
        wallet: wallet.parse().map_err(|e: ailo_protocol::address::AddressError| bad(e.to_string()))?,
        validator,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ailo_protocol::{Address, Keypair};

    #[test]
    fn a_network_file_keeps_the_network_id() {
        let key = Keypair::from_seed([3; 32]);
        let founder = Founder { node: *key.public(), wallet: Address::from(key.public()), validator: true };
        let data = Dataset::embedded();
        let genesis = found("test", 1, vec![founder], &data, local_params(1, 0)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.toml");
        write(&path, &genesis).unwrap();
        assert_eq!(read(&path).unwrap().id(), genesis.id());

        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("confirmations = 0", "confirmations = 11")).unwrap();
        let refused = read(&path).unwrap_err().to_string();
        assert!(refused.contains("network.toml") && refused.contains("confirmations"), "{refused}");
    }
}
