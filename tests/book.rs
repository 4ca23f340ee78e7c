//! The book, README.md and the pages of docs/, says what is there: its links and anchors lead somewhere, its contents name every page,
//! the files and functions that it speaks of exist, and the program understands every command line in it.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_node::cli::Cli;
use ailo_protocol::{Address, Hash, Keypair};
use clap::{Parser as _, error::ErrorKind};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const CONTENTS: &str = "docs/SUMMARY.md";

/// What this test knows of a page.
#[derive(Default)]
struct Page {
    /// Targets of links and pictures.
    links: Vec<String>,
    /// Headings, as GitHub and mdBook name their anchors.
    anchors: BTreeSet<String>,
    /// Code within lines.
    code: Vec<String>,
    /// Blocks of code.
    blocks: Vec<String>,
}

impl Page {
    fn read(text: &str) -> Page {
        let (mut page, mut heading, mut block) = (Page::default(), None::<String>, None::<String>);
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into())
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    let quoted = ["src=\"", "srcset=\"", "href=\""].map(|name| html.split(name).skip(1));
                    page.links
                        .extend(quoted.into_iter().flatten().filter_map(|rest| Some(rest.split_once('"')?.0.into())));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => page.add_anchor(&heading.take().unwrap_or_default()),
                Event::Start(Tag::CodeBlock(_)) => block = Some(String::new()),
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Text(text) => [&mut heading, &mut block].into_iter().flatten().for_each(|to| to.push_str(&text)),
                Event::Code(code) => {
                    heading.iter_mut().for_each(|to| to.push_str(&code));
                    page.code.push(code.into());
                }
                _ => {}
            }
        }
        page
    }

    fn add_anchor(&mut self, heading: &str) {
        let kept = heading.to_lowercase().replace(' ', "-");
        let name: String = kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let again = (1..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.clone()).chain(again).find(|name| !self.anchors.contains(name));
        self.anchors.extend(free);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// README.md and the pages of docs/, by their paths.
fn pages() -> BTreeMap<String, Page> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let names = docs.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    let page = |name: String| {
        let page = Page::read(&fs::read_to_string(root().join(&name)).unwrap());
        (name, page)
    };
    names.chain(["README.md".into()]).map(page).collect()
}

/// Fails with all that is wrong, not with the first of it.
fn nothing_is_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn links_and_anchors_lead_somewhere_and_the_book_leads_out_of_itself_by_full_addresses_alone() {
    let pages = pages();
    let mut wrong = vec![];
    for (name, page) in &pages {
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => name.clone(),
                _ => Path::new(name).with_file_name(file).display().to_string(),
            };
            let outside = name.starts_with("docs/") && file.starts_with("../");
            let there = root().join(&target).exists();
            let named = anchor.is_empty() || pages.get(&target).is_some_and(|page| page.anchors.contains(anchor));
            if outside || !there || !named {
                wrong.push(format!(
                    "{name}: the link to {link} leads {}",
                    if outside { "out of the book" } else { "nowhere" }
                ));
            }
        }
    }
    nothing_is_wrong(&wrong);
}

#[test]
fn the_contents_name_every_page_once() {
    let mut pages = pages();
    let mut named = pages.remove(CONTENTS).unwrap().links;
    named.sort_unstable();
    let all: Vec<String> = pages.keys().filter_map(|name| Some(name.strip_prefix("docs/")?.to_string())).collect();
    assert_eq!(named, all, "{CONTENTS} names the first, docs/ holds the second");
}

/// Reads the program's sources in `folder` and below.
fn sources(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(end) if end == "rs" => fs::read_to_string(path).unwrap(),
            _ => String::new(),
        })
        .collect()
}

#[test]
fn the_files_and_tests_that_pages_speak_of_exist() {
    // `ledger/` is a folder of a node's, too.
    const FOLDERS: [&str; 7] = ["config", "docs", "node", "protocol", "scripts", "tests", "training"];
    let program: String =
        ["ledger", "node", "protocol", "tests", "training"].map(|name| sources(&root().join(name))).concat();
    let mut wrong = vec![];
    for (name, page) in pages() {
        for code in page.code {
            let plain = |also: &str| code.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c));
            let first = code.split_once('/').map_or("", |(first, _)| first);
            let path = plain("._-/") && (FOLDERS.contains(&first) || code.starts_with("ledger/src/"));
            // Tests are named by sentences; nothing else has so many words.
            let test = plain("_") && code.matches('_').count() >= 4 && code == code.to_lowercase();
            if path && !root().join(&code).exists() || test && !program.contains(&format!("fn {code}(")) {
                wrong.push(format!("{name}: there is no {code}"));
            }
        }
    }
    nothing_is_wrong(&wrong);
}

/// The command lines of `ailo-node` in a block of code: what follows the program's name, up to a pipe, a redirection, a remark in
/// parentheses, or the line's end. Where lines begin with `$`, the others are what the program said.
fn commands(block: &str) -> Vec<Vec<String>> {
    let whole = block.replace("\\\n", " ");
    let spoken = whole.lines().any(|line| line.trim_start().starts_with("$ "));
    let typed = whole.lines().filter_map(|line| match line.trim_start().strip_prefix("$ ") {
        Some(line) => Some(line),
        None => (!spoken).then_some(line),
    });
    let is_program = |word: &str| word == "ailo-node" || word.ends_with("/ailo-node");
    let ends = |word: &String| ["|", "&&", ";", "&", ">", "<", "2>", "("].iter().any(|end| word.starts_with(end));
    let is_setting = |word: &str| word.split_once('=').is_some_and(|(name, _)| name == name.to_uppercase());
    let mut found = vec![];
    for line in typed {
        // With a quote too few it is no command line, which the program will say.
        let words = shlex::split(line).unwrap_or_else(|| line.split(' ').map(String::from).collect());
        for part in words.split(ends) {
            let mut part = part.iter().skip_while(|word| is_setting(word));
            // A summary of what may be typed is no line to type.
            let is_summary = part.clone().any(|word| word.starts_with('['));
            if part.next().is_some_and(|first| is_program(first)) && !is_summary {
                found.push(part.cloned().collect());
            }
        }
    }
    found
}

/// What a reader puts in place of a word in capitals, or of an address that is cut short.
fn filled(word: &str) -> String {
    let hash = Hash([7; 32]).to_string();
    let key = Keypair::from_seed([7; 32]);
    let address = Address::from(key.public()).to_string();
    let values = [
        ("HEIGHT:ID", format!("1:{hash}")),
        ("ailo1...", address.clone()),
        ("ADDRESS", address.clone()),
        ("WALLET", address),
        ("NODE", key.public().to_string()),
        ("KEY", key.public().to_string()),
        ("SIGNATURE", "cd".repeat(64)),
        ("TRANSFER", hash.clone()),
        ("ID", hash),
        ("@NAME", "@name".into()),
        ("ROUND", "12".into()),
        ("NUMBER", "1".into()),
        ("AMOUNT", "1.5".into()),
    ];
    values.into_iter().find(|(name, _)| *name == word).map_or(word.to_string(), |(_, value)| value)
}

/// Whether it is no mistake: help was asked for, or nothing at all.
fn shows_help(kind: ErrorKind) -> bool {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(kind, DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

#[test]
fn the_program_understands_every_command_line() {
    let mut wrong = vec![];
    let mut understood = 0;
    for (name, page) in pages() {
        for words in page.blocks.iter().flat_map(|block| commands(block)) {
            let typed = words.join(" ");
            match Cli::try_parse_from(std::iter::once("ailo-node".into()).chain(words.iter().map(|word| filled(word))))
            {
                Err(e) if !shows_help(e.kind()) => {
                    wrong.push(format!("{name}: ailo-node {typed}\n{e}"));
                }
                _ => understood += 1,
            }
        }
    }
    nothing_is_wrong(&wrong);
    assert!(understood > 20, "only {understood} command lines were found");
}

#[test]
fn a_command_line_is_found_wherever_a_reader_would_type_it() {
    let found = |block: &str| commands(block).iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(found("ailo-node status\nsaid\n"), ["status"]);
    assert_eq!(
        found("$ target/debug/ailo-node run \\\n  --network dev    # alone\nailo-node said so\n"),
        ["run --network dev"]
    );
    assert_eq!(found("cat words | AILO_LOG=info ailo-node wallet recover ADDRESS > out\n"), ["wallet recover ADDRESS"]);
    assert_eq!(
        found("ailo-node --help && ailo-node generate 'The ledger; and'\n"),
        ["--help", "generate The ledger; and"]
    );
    assert!(
        Cli::try_parse_from(["ailo-node", "wallet", "send", "ADDRESS", "1"]).is_err(),
        "placeholders are no addresses"
    );
}
