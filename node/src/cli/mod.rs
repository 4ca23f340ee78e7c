//! The command line: every command and flag of `ailo-node`, with its help. Here are the commands; their flags are in a file
//! for each subject.

mod client;
pub mod examples;
mod network;
mod operator;
mod run;
mod simulate;
mod stake;
mod text;
mod training;
mod tx;
mod upkeep;
mod verify;
mod wallet;

use crate::{
    error::{Exit, NodeError},
    logs::{self, command::LogsArgs},
    output,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
pub use {
    client::*, network::*, operator::*, run::*, simulate::*, stake::*, text::*, training::*, tx::*, upkeep::*,
    verify::*, wallet::*,
};

/// Train and serve one language model together, with no coordinator.
#[derive(Debug, Parser)]
#[command(name = "ailo-node", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log filter on standard error, such as info or ailo_node=debug,warn.
    #[arg(long, global = true, env = "AILO_LOG", default_value = logs::DEFAULT, value_name = "FILTER")]
    pub log: String,
    /// How the log is written on standard error.
    #[arg(long, global = true, env = "AILO_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: logs::Format,
    /// Print JSON on standard output, one object a line, and nothing else; errors as JSON on standard error.
    #[arg(long, global = true)]
    pub json: bool,
}

impl Cli {
    /// All commands, with their examples.
    pub fn tree() -> clap::Command {
        examples::add(Cli::command().after_help(Exit::help()), "")
    }

    /// What this process was called with; says itself what is wrong with that, or what was asked for (`--help`), and gives the code
    /// to end with.
    pub fn from_command_line() -> Result<Cli, u8> {
        let parsed = Cli::tree().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
        let json = parsed.as_ref().map_or_else(|_| std::env::args_os().any(|arg| arg == "--json"), |cli| cli.json);
        output::speak_json(json);
        parsed.map_err(|e| {
            if json && e.use_stderr() {
                // What is wrong and what may have been meant, without the usage that follows.
                let text = e.to_string();
                let lines = text.trim_start_matches("error: ").lines().map(str::trim);
                let said: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
                output::complain(&NodeError::Usage(said.join(" ").trim().into()));
            } else {
                let _ = e.print(); // Nobody is left to read it, then.
            }
            if e.use_stderr() { Exit::Usage.code() } else { 0 }
        })
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: keep the ledger, train, answer JSON-RPC.
    Run(Box<RunArgs>),
    /// Make a network file: parameters, founders, model, dataset root.
    Genesis(Box<GenesisArgs>),
    /// Make the keys of a node's folder where they are missing, and show what `genesis --founder` takes.
    Keys(KeysArgs),
    /// Make, list and revoke the keys with which programs ask a node's API for texts.
    #[command(subcommand, after_help = text::API_KEYS_HELP)]
    ApiKeys(ApiKeysCommand),
    /// Make and use a wallet.
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Make, show, sign and send a transaction in steps, for keys that are off-line or in hardware.
    #[command(subcommand)]
    Tx(TxCommand),
    /// Bond coins to a node (a validator, or a seat that confirms transfers).
    Stake(StakeArgs),
    /// Start to free coins that were bonded to a node.
    Unstake(StakeArgs),
    /// Let a jailed node back in, after its time.
    Unjail(NodeArgs),
    /// Let the node in the data folder work for another wallet, which has consented (`wallet consent`).
    Bind(BindArgs),
    /// Call an accepted contribution forged; all validators replay it and vote. Binds coins.
    Challenge(ChallengeArgs),
    /// Accuse a stage of having signed what it did not compute; all validators that have the model read the text and vote. Binds coins,
    /// and shows the beginning of the text to everybody.
    Accuse(AccuseArgs),
    /// Propose other values of network parameters. Binds coins.
    Propose(ProposeArgs),
    /// Vote on a proposal with all the wallet's stake.
    Vote(VoteArgs),
    /// List what is voted on.
    Proposals(ClientArgs),
    /// Show what inference costs now.
    Market(ClientArgs),
    /// List who decides the next block, or show what one node did and earned.
    Validators(ValidatorsArgs),
    /// Show a round, or what became of a node's contribution to it, and why: checks, losses, replay, pay.
    Round(RoundArgs),
    /// Print this machine's determinism class: whoever has the same gets the same bits from the same training.
    Class(ClassArgs),
    /// Train the contributions to a recorded round again, offline, and compare.
    #[command(after_help = training::REPLAY_HELP)]
    Replay(ReplayArgs),
    /// Show what a running node knows: height, round, model, peers, balance.
    Status(ClientArgs),
    /// Let the node that runs in the data folder train, or rest, until it stops.
    Training(TrainingArgs),
    /// Set the share of the time that training may compute in the node that runs in the data folder, until it stops.
    Power(PowerArgs),
    /// Show what a node has logged, from the files in its folder.
    Logs(LogsArgs),
    /// Check what a node says of the ledger by certificates and proofs, without believing the node.
    #[command(subcommand)]
    Verify(VerifyCommand),
    /// Talk with a model in the terminal.
    #[command(after_help = text::CHAT_HELP)]
    Chat(ChatArgs),
    /// Serve a checkpoint on this machine through the API that OpenAI's clients speak, with no network.
    #[command(after_help = text::SERVE_HELP)]
    Serve(ServeArgs),
    /// Continue a text with the network's model.
    #[command(after_help = text::GENERATE_HELP)]
    Generate(GenerateArgs),
    /// Make one update of the updates in a file, by a rule that withstands attackers.
    #[command(after_help = training::AGGREGATE_HELP)]
    Aggregate(Box<AggregateArgs>),
    /// Found a network of several nodes on this machine, train with it, and check it.
    Localnet(Box<LocalnetArgs>),
    /// Run whole networks in virtual time, with every fault that a seed brings, and check what always holds.
    #[command(subcommand)]
    Simulate(SimulateCommand),
    /// Look at this machine as a node would use it, and say what is wrong and what to do.
    Doctor(DoctorArgs),
    /// Show or check the settings of `run`.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Keep a node's keys, network and signing journal in one file.
    #[command(after_help = upkeep::BACKUP_HELP)]
    Backup(BackupArgs),
    /// Make a node's folder of what `backup` kept.
    #[command(after_help = upkeep::RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Print what makes a shell complete commands and flags.
    Completions(CompletionsArgs),
    /// Write the manual's pages.
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_every_flag_has_help() {
        Cli::command().debug_assert();
        fn visit(command: &clap::Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        let mut command = Cli::tree();
        command.build();
        visit(&command);
    }

    /// The commands that do something, by their names.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            let path = format!("{path} {}", below.get_name()).trim_start().to_string();
            match below.has_subcommands() {
                true => leaves(below, &path, found),
                false => found.push((path, below.clone().render_help().to_string())),
            }
        }
    }

    #[test]
    fn every_command_shows_an_example_in_its_help_and_every_example_is_a_command() {
        let mut found = Vec::new();
        leaves(&Cli::tree(), "", &mut found);
        for (path, help) in &found {
            assert!(help.contains("\nExample"), "{path} has no example: {help}");
        }
        let known = |path: &str| found.iter().any(|(name, _)| name == path);
        examples::EXAMPLES.iter().for_each(|(path, _)| assert!(known(path), "there is no command {path}"));
    }

    /// The words of a line that a shell would hand over, up to a redirection, a pipe or a remark.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                '#' | '|' | '<' | '>' if !quoted => break,
                c => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_example_parses() {
        let (id, address) = ("ab".repeat(32), ailo_protocol::Address([7; 20]).to_string());
        let key = ailo_protocol::Keypair::from_seed([1; 32]).public().to_string();
        let stand_ins = [
            ("HEIGHT:ID", format!("7:{id}")),
            ("ADDRESS", address),
            ("NODE", key.clone()),
            ("KEY", key),
            ("TRANSFER", id.clone()),
            ("SIGNATURE", "cd".repeat(64)),
            ("ID", id),
        ];
        for line in examples::EXAMPLES.iter().flat_map(|(_, lines)| *lines) {
            let filled = stand_ins.iter().fold(line.to_string(), |line, (word, value)| line.replace(word, value));
            let mut words = words(&filled);
            words.retain(|word| !word.starts_with("AILO_"));
            assert_eq!(words[0], "ailo-node", "{line}");
            let parsed = Cli::tree().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
