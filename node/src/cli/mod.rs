//! The command line: every command and flag of `ailo-node`, with its help. Here are the commands; their flags are in a file
//! for each subject.

mod client;
mod network;
mod run;
mod simulate;
mod stake;
mod text;
mod training;
mod verify;
mod wallet;

use clap::{Parser, Subcommand};
pub use {client::*, network::*, run::*, simulate::*, stake::*, text::*, training::*, verify::*, wallet::*};

/// libp2p warns of what is normal in a small network: messages said twice, nobody known yet.
const DEFAULT_LOG: &str = "warn,libp2p_gossipsub=error,libp2p_kad=error";

/// Train and serve one language model together, with no coordinator.
#[derive(Debug, Parser)]
#[command(name = "ailo-node", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log filter on standard error, such as info or ailo_node=debug,warn.
    #[arg(long, global = true, env = "AILO_LOG", default_value = DEFAULT_LOG, value_name = "FILTER")]
    pub log: String,
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
        let mut command = Cli::command();
        command.build();
        visit(&command);
    }
}
