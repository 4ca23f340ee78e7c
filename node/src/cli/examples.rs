//! An example or more for each command, which its help shows. Words in capitals are for what everybody has another of.

use clap::Command;

/// Commands, and how they are called.
pub const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "run",
        &[
            "ailo-node run --network dev",
            "ailo-node run --network net.toml --data corpus.txt --data-dir mine --validator --bootstrap /ip4/203.0.113.7/tcp/8646",
            "ailo-node run --config node.toml",
        ],
    ),
    ("genesis", &["ailo-node genesis --out net.toml --founder NODE,ADDRESS,validator --data corpus.txt --params test"]),
    ("keys", &["ailo-node keys --data-dir mine"]),
    (
        "api-keys create",
        &[
            "ailo-node api-keys create --data-dir mine --name ann --requests-per-minute 60 --tokens-per-day 1000000 --concurrent 4",
        ],
    ),
    ("api-keys list", &["ailo-node api-keys list --data-dir mine", "ailo-node api-keys list --json"]),
    ("api-keys revoke", &["ailo-node api-keys revoke --data-dir mine ann"]),
    (
        "wallet new",
        &[
            "ailo-node wallet new --wallet-file savings.json",
            "AILO_PASSPHRASE_FILE=passphrase ailo-node wallet new --wallet-file savings.json",
            "ailo-node wallet new --restore --wallet-file savings.json < words",
        ],
    ),
    ("wallet show", &["ailo-node wallet show", "ailo-node wallet show --wallet-file savings.json --json"]),
    ("wallet address", &["ailo-node wallet address --wallet-file savings.json"]),
    (
        "wallet send",
        &[
            "ailo-node wallet send ADDRESS 0.25 --memo 'for the tea'",
            "ailo-node wallet send @ann 0.25 --no-wait --json",
            "ailo-node wallet send @ann 0.25 --expect ADDRESS --rpc https://node.example/rpc",
        ],
    ),
    ("training", &["ailo-node training off --data-dir mine"]),
    ("power", &["ailo-node power 50 --data-dir mine"]),
    (
        "logs",
        &[
            "ailo-node logs --data-dir mine --level warn",
            "ailo-node logs --data-dir mine --follow --grep 'peer connected'",
            "ailo-node logs --data-dir mine --json | jq -r 'select(.level == \"error\") | .message'",
        ],
    ),
    ("wallet dispute", &["ailo-node wallet dispute TRANSFER"]),
    ("wallet report", &["ailo-node wallet report TRANSFER", "ailo-node wallet report TRANSFER --node NODE"]),
    ("wallet withdraw-report", &["ailo-node wallet withdraw-report TRANSFER"]),
    ("wallet deposit", &["ailo-node wallet deposit 5"]),
    ("wallet withdraw-deposit", &["ailo-node wallet withdraw-deposit 2.5"]),
    ("wallet username", &["ailo-node wallet username ann", "ailo-node wallet username"]),
    (
        "wallet consent",
        &[
            "ailo-node wallet consent NODE --wallet-file savings.json",
            "ailo-node wallet consent NODE --by KEY",
            "ailo-node wallet consent NODE --by KEY --signature SIGNATURE",
        ],
    ),
    ("wallet passphrase", &["ailo-node wallet passphrase --wallet-file savings.json"]),
    ("wallet protect-with-recovery", &["ailo-node wallet protect-with-recovery"]),
    ("wallet recover", &["ailo-node wallet recover ADDRESS --wallet-file new.json"]),
    ("wallet history", &["ailo-node wallet history --limit 5"]),
    (
        "tx build transfer",
        &[
            "ailo-node tx build transfer --to ADDRESS --amount 1.5 --out payment.json",
            "ailo-node tx build transfer --to ADDRESS --amount 1.5 --from KEY --nonce 7 --network-id ID --time-ms 1798761600000 --out payment.json",
        ],
    ),
    ("tx build dispute", &["ailo-node tx build dispute TRANSFER --from KEY --out dispute.json"]),
    ("tx build report", &["ailo-node tx build report TRANSFER --node NODE --out report.json"]),
    ("tx build withdraw-report", &["ailo-node tx build withdraw-report TRANSFER --node NODE --out report.json"]),
    ("tx build stake", &["ailo-node tx build stake 100 --node NODE --from KEY --out stake.json"]),
    ("tx build unstake", &["ailo-node tx build unstake 100 --node NODE --from KEY --out unstake.json"]),
    ("tx build unjail", &["ailo-node tx build unjail --node NODE --out unjail.json"]),
    ("tx build protect", &["ailo-node tx build protect --recovery KEY --out protect.json"]),
    (
        "tx build recover",
        &[
            "ailo-node tx build recover ADDRESS --key KEY --next KEY --from KEY",
            "ailo-node tx build recover ADDRESS --key KEY --next KEY --from KEY --agreed SIGNATURE --out recover.json",
        ],
    ),
    ("tx build accuse", &["ailo-node tx build accuse mine/charges/CHARGE.json --from KEY --out accuse.json"]),
    ("tx build deposit", &["ailo-node tx build deposit 5 --out deposit.json"]),
    ("tx build withdraw-deposit", &["ailo-node tx build withdraw-deposit 2.5 --out deposit.json"]),
    ("tx build username", &["ailo-node tx build username ann --out name.json"]),
    ("tx build challenge", &["ailo-node tx build challenge 12 --node NODE --out challenge.json"]),
    ("tx build propose", &["ailo-node tx build propose round.pot=2 --why 'half the rounds' --out proposal.json"]),
    ("tx build vote", &["ailo-node tx build vote 3 yes --from KEY --out vote.json"]),
    ("tx show", &["ailo-node tx show payment.json"]),
    ("tx sign", &["ailo-node tx sign payment.json --wallet savings.json"]),
    ("tx attach", &["ailo-node tx attach payment.json --signature SIGNATURE"]),
    ("tx submit", &["ailo-node tx submit payment.json --rpc http://127.0.0.1:8645/rpc"]),
    ("stake", &["ailo-node stake 100", "ailo-node stake 100 --node NODE --wallet-file savings.json"]),
    ("unstake", &["ailo-node unstake 100"]),
    ("unjail", &["ailo-node unjail"]),
    ("bind", &["ailo-node bind ADDRESS --consent CODE"]),
    ("challenge", &["ailo-node challenge 12 NODE"]),
    ("accuse", &["ailo-node accuse mine/charges/CHARGE.json"]),
    ("propose", &["ailo-node propose round.pot=2 --why 'rounds take longer now'"]),
    ("vote", &["ailo-node vote 3 yes"]),
    ("proposals", &["ailo-node proposals", "ailo-node proposals --rpc http://127.0.0.1:8645/rpc --json"]),
    ("market", &["ailo-node market"]),
    ("validators", &["ailo-node validators", "ailo-node validators NODE --limit 100"]),
    (
        "round",
        &[
            "ailo-node round",
            "ailo-node round 12 --node NODE",
            "ailo-node round --dry-run",
            "ailo-node round 12 --save round-12",
        ],
    ),
    ("class", &["ailo-node class --cpu"]),
    (
        "replay",
        &[
            "ailo-node replay round-12 --data text.txt",
            "ailo-node replay round-12.json --network network.toml --model model/ROOT.state  # what `round 12 --json` printed",
        ],
    ),
    ("status", &["ailo-node status", "ailo-node status --rpc http://127.0.0.1:8645/rpc --json"]),
    ("verify account", &["ailo-node verify account ADDRESS --network net.toml --checkpoint HEIGHT:ID"]),
    ("verify node", &["ailo-node verify node NODE --network net.toml --rpc http://127.0.0.1:8645/rpc"]),
    ("verify transaction", &["ailo-node verify transaction TRANSFER"]),
    ("verify model", &["ailo-node verify model"]),
    (
        "chat",
        &[
            "ailo-node chat                                             # the node in the data folder",
            "ailo-node chat --api http://127.0.0.1:8650/v1 'Who are you?'",
        ],
    ),
    ("serve", &["ailo-node serve --model models/Qwen3-0.6B"]),
    ("generate", &["ailo-node generate 'The ledger' --max-tokens 40 --seed 7"]),
    ("aggregate", &["ailo-node aggregate --rule trimmed-mean --f 3 --pre nnm updates.safetensors mean.safetensors"]),
    (
        "localnet",
        &[
            "ailo-node localnet --nodes 4 --rounds 20 --data tinyshakespeare.txt --plot loss.svg",
            "ailo-node localnet --nodes 14 --confirmations 10 --story --keep",
        ],
    ),
    ("simulate ledger", &["ailo-node simulate ledger --seeds 1000", "ailo-node simulate ledger --from 7 --seeds 1"]),
    ("simulate plants", &["ailo-node simulate plants"]),
    (
        "simulate training",
        &[
            "ailo-node simulate training --nodes 8 --byzantine 2 --data text.txt --table runs.jsonl",
            "ailo-node simulate training --nodes 16 --byzantine 6 --attack alie-opt,ipm-opt --rule trimmed-mean,median --pre nnm --plot curves.svg",
            "ailo-node simulate training --nodes 8 --byzantine 2 --attack ipm --f 0  # a plain mean under attack",
        ],
    ),
    ("doctor", &["ailo-node doctor --data-dir mine --network net.toml", "ailo-node doctor --config node.toml --json"]),
    ("config show", &["ailo-node config show --config node.toml --validator"]),
    ("config check", &["ailo-node config check --config node.toml"]),
    ("backup", &["ailo-node backup --data-dir mine mine.tar", "ailo-node backup --data-dir mine --ledger mine.tar"]),
    (
        "restore",
        &[
            "ailo-node restore mine.tar --data-dir again --network-height 81234",
            "ailo-node restore mine.tar --data-dir moved --not-run-since",
            "ailo-node restore mine.tar --data-dir other --without-node-key",
        ],
    ),
    ("completions", &["ailo-node completions bash > ~/.local/share/bash-completion/completions/ailo-node"]),
    ("man", &["ailo-node man ~/.local/share/man/man1", "ailo-node man | man -l -"]),
];

/// The same command, and those below it, with their examples in their help.
pub fn add(command: Command, path: &str) -> Command {
    let lines = EXAMPLES.iter().find(|(name, _)| *name == path).map_or(&[][..], |(_, lines)| lines);
    let command = match lines {
        [] => command,
        lines => {
            let before = command.get_after_help().map(|help| format!("{help}\n\n")).unwrap_or_default();
            let title = if lines.len() > 1 { "Examples" } else { "Example" };
            let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
            command.after_help(format!("{before}{title}:{lines}"))
        }
    };
    command.mut_subcommands(|below| {
        let path = format!("{path} {}", below.get_name());
        add(below, path.trim_start())
    })
}
