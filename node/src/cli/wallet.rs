//! `wallet ...`: coins and the rights to them.

use super::ClientArgs;
use ailo_protocol::{
    Address, Amount, Hash, PublicKey, Signature, Username, address::AddressError, username::BadUsername,
};
use clap::{Args, Subcommand};
use std::str::FromStr;

const PASSPHRASE_HELP: &str = "\
A passphrase is typed, or found in the first line of the file that AILO_PASSPHRASE_FILE names, or in AILO_PASSPHRASE: never in a
flag, which others could see. AILO_NEW_PASSPHRASE_FILE names the file of the new one; an empty file stands for none. Whoever forgets it
has the 24 words.";

/// `wallet ...`
#[derive(Debug, Subcommand)]
pub enum WalletCommand {
    /// Make a wallet file, and show the 24 words that restore it.
    #[command(after_help = PASSPHRASE_HELP)]
    New {
        /// Restore from 24 words (read from standard input) instead of making a new key.
        #[arg(long)]
        restore: bool,
        /// Where it goes.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show address and balance.
    Show(ClientArgs),
    /// Print the address alone.
    Address(ClientArgs),
    /// Send coins.
    Send {
        /// Recipient: an address, or @ and a user name.
        #[arg(value_name = "ADDRESS|@NAME")]
        to: Recipient,
        /// Amount in ALC, such as 1.5.
        amount: Amount,
        /// Text that goes with it.
        #[arg(long, default_value = "")]
        memo: String,
        /// The address that the name must lead to: for a node of somebody else's, which could name anybody.
        #[arg(long, value_name = "ADDRESS")]
        expect: Option<Address>,
        /// Return as soon as the node has taken it, without waiting for a block.
        #[arg(long)]
        no_wait: bool,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take a pending transfer back.
    Dispute {
        /// The transfer's id.
        transfer: Hash,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Call a transfer a fraud; it is reversed once 51 % of the seats have said so. Binds coins.
    Report(ReportArgs),
    /// Take a report back, and the coins that it binds.
    WithdrawReport(ReportArgs),
    /// Deposit coins that nodes are paid from for serving this wallet's requests.
    Deposit {
        /// Amount in ALC.
        amount: Amount,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take coins of the deposit back; they are free after a time.
    WithdrawDeposit {
        /// Amount in ALC.
        amount: Amount,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take a user name, instead of the last one.
    Username {
        /// The name, or none to give the last one up.
        name: Option<Username>,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print a wallet's consent to a node that works for it; `run` and `bind` take it as --consent.
    Consent {
        /// The node's key (`ailo-node status` shows it).
        node: PublicKey,
        /// The wallet's key, where it signs off-line: this says what it is to sign [default: that of the wallet file, which signs].
        #[arg(long, value_name = "KEY")]
        by: Option<PublicKey>,
        /// What it signed.
        #[arg(long, requires = "by", value_name = "HEX")]
        signature: Option<Signature>,
        /// Which wallet, which node to ask for the network.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Name a recovery key, once, and show the 24 words that it is made of.
    ProtectWithRecovery(ClientArgs),
    /// Give an account a new key with its recovery words (read from standard input); makes a new wallet file.
    Recover {
        /// The account's address.
        account: Address,
        /// Where the new wallet file goes, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Lock a wallet file with a passphrase, change it, or take it away.
    #[command(after_help = PASSPHRASE_HELP)]
    Passphrase {
        /// A node's key file instead of a wallet.
        #[arg(long)]
        node_key: bool,
        /// Which wallet.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List what happened to the wallet's coins.
    History {
        /// Entries at most.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Who coins go to.
#[derive(Debug, Clone, Copy)]
pub enum Recipient {
    /// A wallet.
    Address(Address),
    /// Whoever has this user name.
    Name(Username),
}

impl FromStr for Recipient {
    type Err = String;
    fn from_str(text: &str) -> Result<Recipient, String> {
        match text.strip_prefix('@') {
            Some(name) => name.parse().map(Recipient::Name).map_err(|e: BadUsername| e.to_string()),
            None => text.parse().map(Recipient::Address).map_err(|e: AddressError| e.to_string()),
        }
    }
}

/// Flags of `wallet report` and `wallet withdraw-report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The transfer's id.
    pub transfer: Hash,
    /// The wallet's node that held a seat when the transfer was included [default: the node in the data folder].
    #[arg(long, value_name = "KEY")]
    pub node: Option<PublicKey>,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}
