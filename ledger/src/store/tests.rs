#![allow(clippy::unwrap_used)]
use super::{
    runfile::{RunFile, Writer},
    *,
};
use crate::{
    Body,
    consensus::{Ballot, Host, Input, Output, Step},
    state::{
        Event, build_block, execute_block,
        testing::{self, node_key},
    },
};
use std::path::PathBuf;

/// A ledger of one validator that writes its blocks to a store.
struct Chain {
    genesis: Genesis,
    dir: tempfile::TempDir,
    blocks: Vec<(Block, Certificate)>,
    states: Vec<State>,
}

impl Chain {
    /// Stores `blocks` blocks, a third of them with a heartbeat.
    fn new(blocks: u64) -> Chain {
        Chain::of(testing::genesis(1, |_| {}), blocks)
    }

    fn of(genesis: Genesis, blocks: u64) -> Chain {
        let dir = tempfile::tempdir().unwrap();
        let state = State::genesis(&genesis);
        let mut chain = Chain { genesis, dir, blocks: Vec::new(), states: vec![state] };
        let (store, _) = chain.open();
        for _ in 0..blocks {
            chain.extend(&store);
        }
        chain
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> (Store, State) {
        Store::open(self.dir.path(), &self.genesis).unwrap()
    }

    fn extend(&mut self, store: &Store) {
        let state = self.states.last().unwrap();
        let (key, time_ms) = (node_key(0), state.time_ms() + 10_000);
        let beat =
            Transaction::sign(&state.network(), &key, 0, time_ms, Body::Heartbeat { trains: false, class: Hash::ZERO });
        let candidates = if state.height().is_multiple_of(3) { vec![beat] } else { vec![] };
        let (block, executed) = build_block(state, *key.public(), time_ms, None, candidates.into_iter()).unwrap();
        let (height, id) = (block.header.height, block.id());
        let ballot = Ballot { height, round: 0, step: Step::Precommit, block: Some(id) };
        let signature = ballot.sign(&state.network(), &key).signature;
        let certificate = Certificate { height, round: 0, block: id, signatures: vec![(*key.public(), signature)] };
        store.append(&block, &certificate, &executed).unwrap();
        self.states.push(executed.state);
        self.blocks.push((block, certificate));
    }

    /// The store gives back the first `height` blocks, and their state.
    fn check(&self, height: usize) -> Store {
        let (store, state) = self.open();
        assert_eq!((store.height(), state.height()), (height as u64, height as u64));
        assert_eq!((state.root(), state.last_block()), (self.states[height].root(), self.states[height].last_block()));
        for (i, (block, certificate)) in self.blocks[..height].iter().enumerate() {
            let at = i as u64 + 1;
            assert_eq!(store.block(at).unwrap().as_ref(), Some(block));
            assert_eq!(store.certified(at).unwrap(), Some((block.clone(), certificate.clone())));
            assert_eq!(store.height_of(&block.id()).unwrap(), Some(at));
            for (position, transaction) in block.transactions.iter().enumerate() {
                let found = store.transaction(&transaction.id()).unwrap().unwrap();
                assert_eq!(found, (transaction.clone(), at, position as u32));
            }
        }
        assert_eq!(store.block(height as u64 + 1).unwrap(), None);
        assert_eq!(store.height_of(&Hash([1; 32])).unwrap(), None);
        assert_eq!(store.transaction(&Hash([1; 32])).unwrap(), None);
        store
    }
}

#[test]
fn everything_is_there_after_a_restart_and_goes_on() {
    let mut chain = Chain::new(7);
    for height in 7..10 {
        let store = chain.check(height);
        chain.extend(&store);
    }
    chain.check(10);
}

#[test]
fn only_the_next_block_is_appended() {
    let chain = Chain::new(3);
    let (store, _) = chain.open();
    let executed = |i: usize| execute_block(&chain.states[i], &chain.blocks[i].0).unwrap();
    let (block, certificate) = &chain.blocks[1];
    let again = store.append(block, certificate, &executed(1));
    assert!(matches!(again, Err(StoreError::NotNext { last: 3, got: 2 })));
}

#[test]
fn a_deleted_or_ruined_index_is_built_anew() {
    let chain = Chain::new(6);
    fs::remove_dir_all(chain.path("index")).unwrap();
    chain.check(6);
    for file in fs::read_dir(chain.path("index")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            fs::write(path, b"ruined").unwrap();
        }
    }
    chain.check(6);
}

/// The files of the index's runs, by their numbers.
fn runs(chain: &Chain) -> Vec<PathBuf> {
    let folder = chain.path("index/runs");
    let mut numbers = runs::found(&folder).unwrap();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| folder.join(number.to_string())).collect()
}

/// Flips a bit of a file.
fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_index_that_lacks_a_run_or_has_a_broken_one_is_built_anew() {
    let mut chain = Chain::new(4);
    let (store, _) = chain.open();
    chain.extend(&store);
    drop(store);
    let is_whole = |run: &PathBuf| RunFile::open(run, run.file_name().unwrap().to_str().unwrap().parse().unwrap());
    let damages: [fn(&Path); 4] = [
        |run| fs::remove_file(run).unwrap(),
        |run| fs::write(run, b"").unwrap(),
        |run| flip(run, |_| 3),
        |run| flip(run, |len| len - 1),
    ];
    for damage in damages {
        for i in 0..runs(&chain).len().min(3) {
            damage(&runs(&chain)[i]);
            drop(chain.check(5));
            assert!(runs(&chain).iter().all(|run| is_whole(run).is_ok()), "built anew");
        }
    }
}

#[test]
fn a_damaged_page_has_the_index_built_anew_or_is_said() {
    let mut chain = Chain::new(4);
    let (mut anew, mut said) = (0, 0);
    for i in 0..3 {
        flip(&runs(&chain)[i], |_| 25);
        let (store, state) = chain.open();
        assert_eq!(state.root(), chain.states.last().unwrap().root());
        let transactions = chain.blocks.iter().flat_map(|(block, _)| &block.transactions);
        let outcomes: Vec<_> = transactions.map(|transaction| store.transaction(&transaction.id())).collect();
        if outcomes.iter().all(Result::is_ok) {
            anew += 1;
        } else {
            let error = outcomes.into_iter().find_map(Result::err).unwrap();
            assert!(
                matches!(error, StoreError::Index(_)) && error.to_string().contains("delete ledger/index"),
                "{error}"
            );
            said += 1;
            drop(store);
            fs::remove_dir_all(chain.path("index")).unwrap();
        }
        let height = chain.blocks.len();
        let store = chain.check(height);
        chain.extend(&store);
    }
    assert_eq!((anew, said), (2, 1), "the state is read at opening, the archive by who asks");
}

#[test]
fn what_a_stop_left_of_runs_that_never_came_to_hold_is_removed() {
    let mut chain = Chain::new(3);
    let before = runs(&chain);
    let last: u64 = before.last().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    for number in last + 1..last + 4 {
        fs::write(chain.path("index/runs").join(number.to_string()), b"the beginning of a run").unwrap();
    }
    let store = chain.check(3);
    assert_eq!(runs(&chain), before);
    chain.extend(&store);
    drop(store);
    chain.check(4);
}

/// Over many merges the index holds what the log does, and no more files than runs.
#[test]
fn merged_runs_are_deleted_and_what_they_held_is_there() {
    let mut chain = Chain::new(0);
    for _ in 0..40 {
        // One batch of the index each.
        let (store, _) = chain.open();
        chain.extend(&store);
    }
    assert!(runs(&chain).len() <= 2 * (2 + runs::FAN_IN), "{:?}", runs(&chain));
    chain.check(40);
}

#[test]
fn an_index_that_is_behind_the_log_is_brought_up() {
    let mut chain = Chain::new(4);
    let old: Vec<(PathBuf, Vec<u8>)> = copy(&chain.path("index"));
    let (store, _) = chain.open();
    chain.extend(&store);
    chain.extend(&store);
    drop(store);
    fs::remove_dir_all(chain.path("index")).unwrap();
    for (path, bytes) in old {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    chain.check(6);
}

fn copy(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(copy(&path)),
            false => files.push((path.clone(), fs::read(path).unwrap())),
        }
    }
    files
}

#[test]
fn an_index_ahead_of_the_log_or_of_another_history_is_built_anew() {
    let chain = Chain::new(5);
    // The last block's frame was torn: the index knows a block that the log does not hold.
    let segment = chain.path("blocks").join(format!("{:020}", 1));
    let log = fs::read(&segment).unwrap();
    fs::write(&segment, &log[..log.len() - 1]).unwrap();
    chain.check(4);
    // The state is not what it should be, in a run that is well formed.
    let first = chain.path("index/runs/1");
    let run = RunFile::open(&first, 1).unwrap();
    fs::remove_file(&first).unwrap();
    let mut writer = Writer::create(&first, 1).unwrap();
    for (key, value) in run.page(0).unwrap().entries() {
        let mut value = value.unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        writer.push((key, Some(&value))).unwrap();
    }
    assert_eq!(writer.finish().unwrap().unwrap().entries(), run.entries());
    chain.check(4);
}

#[test]
fn a_log_with_a_block_that_does_not_follow_is_refused() {
    let chain = Chain::new(2);
    let other = Chain::new(0);
    let mut log = BlockLog::open(RealDisk::shared(), &other.path("blocks"), chain.genesis.id(), 1).unwrap();
    let (block, certificate) = &chain.blocks[1];
    let at_another_height = log.append(block, certificate);
    assert!(matches!(at_another_height, Err(StoreError::NotNext { last: 0, got: 2 })));
    let mut block = block.clone();
    block.header.height = 1;
    log.append(&block, &Certificate { height: 1, ..certificate.clone() }).unwrap();
    let error = Store::open(other.dir.path(), &other.genesis).err().unwrap();
    assert!(matches!(error, StoreError::Invalid { height: 1, .. }), "{error}");
}

#[test]
fn a_wallets_history_comes_in_pages_the_latest_first() {
    let mut chain = Chain::new(0);
    let (store, _) = chain.open();
    let state = chain.states.last_mut().unwrap();
    testing::fund(state, testing::wallet(0), ailo_protocol::Amount::alc(100));
    for nonce in 0..5 {
        let state = chain.states.last().unwrap();
        let body = Body::Stake { node: *node_key(0).public(), amount: ailo_protocol::Amount(nonce + 1) };
        let time_ms = state.time_ms() + 1000;
        let stake = Transaction::sign(&state.network(), &testing::wallet_key(0), nonce, time_ms, body);
        let (block, executed) = build_block(state, *node_key(0).public(), time_ms, None, [stake].into_iter()).unwrap();
        let certificate =
            Certificate { height: block.header.height, round: 0, block: block.id(), signatures: Vec::new() };
        store.append(&block, &certificate, &executed).unwrap();
        chain.states.push(executed.state);
    }
    let wallet = Subject::Wallet(testing::wallet(0));
    let all = store.history(&wallet, None, usize::MAX).unwrap();
    assert!(all.next.is_none() && all.items.len() >= 5);
    assert!(all.items.windows(2).all(|pair| pair[0].at > pair[1].at));
    let (mut paged, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.history(&wallet, cursor, 2).unwrap();
        paged.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, all.items);
    // The history says what each block has left to spend.
    let newest = all.items.iter().find_map(|item| item.free);
    assert_eq!(newest, Some(chain.states.last().unwrap().account(&testing::wallet(0)).free));
    let stakes = |page: &Page| page.items.iter().filter(|item| matches!(item.event, Event::Staked { .. })).count();
    let of_node = store.history(&Subject::Node(*node_key(0).public()), None, usize::MAX).unwrap();
    assert_eq!((stakes(&all), stakes(&of_node)), (5, 5), "what a wallet does with a node is in the history of both");
    assert_eq!(store.history(&Subject::Wallet(testing::wallet(9)), None, 10).unwrap(), Page::default());
}

/// Runs a validator on its files until it has made `blocks` blocks or has carried out `outputs` outputs, then drops it.
fn run_validator(chain: &Chain, blocks: u64, mut outputs: usize) -> u64 {
    let (store, state) = chain.open();
    let (end, mut clock) = (state.height() + blocks, state.time_ms());
    let (network, height) = (state.network(), state.height());
    let (files, recovered) = ConsensusFiles::open(chain.dir.path(), network, height, height == 0).unwrap();
    let mut host = Host::new(state, node_key(0), Some(files), recovered).unwrap();
    let mut queue: std::collections::VecDeque<Input> = [Input::Start].into();
    while let Some(input) = queue.pop_front() {
        clock += 10;
        for output in host.handle(input, clock).unwrap() {
            if outputs == 0 || store.height() == end {
                return store.height();
            }
            outputs -= 1;
            match output {
                Output::WantBlock { height, round } => {
                    queue.push_back(Input::Propose { height, round, candidates: vec![] })
                }
                Output::Decided(decision) => {
                    store.append(&decision.block, &decision.certificate, &decision.executed).unwrap();
                    queue.push_back(Input::Committed { height: decision.certificate.height });
                }
                _ => {}
            }
        }
    }
    panic!("the validator stopped by itself at height {}", store.height());
}

#[test]
fn a_validator_on_its_files_goes_on_after_a_stop_at_any_output() {
    let chain = Chain::new(0);
    let mut height = 0;
    for outputs in 0..24 {
        let reached = run_validator(&chain, u64::MAX / 2, outputs);
        assert!(reached >= height);
        height = run_validator(&chain, 1, usize::MAX);
        assert_eq!(height, reached + 1);
    }
}

/// A ledger of epochs of three blocks that keeps blocks for twenty, with `blocks` blocks of which the store keeps what it must.
fn kept(blocks: u64, archive: bool) -> Chain {
    let genesis = testing::genesis(1, |params| {
        params.ledger.epoch_ms = 30_000;
        params.ledger.unbonding_ms = 200_000;
        (params.ledger.evidence_ms, params.ledger.trust_ms) = (200_000, 100_000);
        (params.ledger.poll_ms, params.ledger.challenge_ms) = (100_000, 100_000);
    });
    let mut chain = Chain::of(genesis, 0);
    let (store, _) = chain.open();
    for _ in 0..blocks {
        let epoch = chain.states.last().unwrap().epoch();
        chain.extend(&store);
        let state = chain.states.last().unwrap();
        if state.epoch() > epoch {
            store.keep(state, archive).unwrap();
        }
    }
    chain
}

impl Chain {
    /// Opens the store and compares all that it keeps, and where it stands.
    fn check_kept(&self) -> Store {
        let (store, state) = self.open();
        let last = self.states.last().unwrap();
        assert_eq!((state.root(), state.last_block()), (last.root(), last.last_block()));
        for (height, (block, certificate)) in (1..).zip(&self.blocks) {
            let is_kept = height >= store.first();
            let kept = is_kept.then(|| (block.clone(), certificate.clone()));
            assert_eq!(store.certified(height).unwrap(), kept);
            assert_eq!(store.height_of(&block.id()).unwrap(), is_kept.then_some(height));
        }
        store
    }
}

#[test]
fn old_blocks_go_once_a_snapshot_stands_before_those_that_are_left() {
    let mut chain = kept(100, false);
    let store = chain.check_kept();
    let (first, height) = (store.first(), store.height());
    assert!(
        (50..=80).contains(&first),
        "what is younger than twenty blocks stays, and a quarter more at most: {first}"
    );
    let segments = fs::read_dir(chain.path("blocks")).unwrap().count();
    let snapshots = fs::read_dir(chain.path("snapshots")).unwrap().count();
    assert!(segments <= 6 && snapshots <= segments + OFFERED, "{segments} segments, {snapshots} snapshots");
    drop(store);
    // The index is built anew from the snapshot, and the ledger goes on.
    fs::remove_dir_all(chain.path("index")).unwrap();
    let store = chain.check_kept();
    assert_eq!((store.first(), store.height()), (first, height));
    chain.extend(&store);
    drop(store);
    chain.check_kept();
}

#[test]
fn an_archive_keeps_every_block_and_the_newest_snapshots() {
    let chain = kept(100, true);
    let store = chain.check_kept();
    assert_eq!((store.first(), store.snapshots().heights().len()), (1, OFFERED));
}

#[test]
fn an_older_segment_that_lacks_its_end_is_damaged_and_not_cut() {
    let chain = kept(60, true);
    let path = chain.path("blocks").join(format!("{:020}", 1));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = Store::open(chain.dir.path(), &chain.genesis).err().unwrap();
    assert!(matches!(error, StoreError::Log(LogError::Damaged { .. })), "{error}");
    assert_eq!(fs::read(&path).unwrap().len(), bytes.len() - 1);
}

#[test]
fn a_log_goes_on_from_the_first_segment_that_a_snapshot_stands_before() {
    let chain = kept(100, false);
    let (store, _) = chain.open();
    let first = store.first();
    store.snapshots().remove(first - 1).unwrap();
    drop(store);
    assert_eq!(chain.check_kept().first(), first, "nobody asks for it while the index stands");
    fs::remove_dir_all(chain.path("index")).unwrap();
    let store = chain.check_kept();
    assert!(store.first() > first, "a segment without a snapshot before it is of no use");
    for height in store.snapshots().heights() {
        store.snapshots().remove(height).unwrap();
    }
    drop(store);
    fs::remove_dir_all(chain.path("index")).unwrap();
    let lost = Store::open(chain.dir.path(), &chain.genesis).err().unwrap();
    assert!(matches!(lost, StoreError::NoBase { .. }), "{lost}");
}

#[test]
fn a_store_begins_with_a_snapshot_that_was_fetched_part_by_part() {
    let chain = kept(31, false);
    let store = chain.check_kept();
    let snapshot = store.snapshots().newest().unwrap();
    let height = snapshot.head.height();
    assert!(height < store.height(), "blocks follow it");

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("snapshots");
    let fetched = Snapshots::open(RealDisk::shared(), &folder, chain.genesis.id()).unwrap();
    let mut writer = fetched.begin(snapshot.head.clone()).unwrap();
    for index in 0..snapshot.head.parts() {
        writer.add(&snapshot.part(index).unwrap().unwrap()).unwrap();
    }
    assert!(fetched.heights().is_empty(), "it is not there before it is whole");
    writer.finish().unwrap();
    let (new, state) = Store::open(dir.path(), &chain.genesis).unwrap();
    assert_eq!((new.first(), new.height(), state.root()), (height + 1, height, chain.states[height as usize].root()));
    let mut state = state;
    for (block, certificate) in &chain.blocks[height as usize..] {
        let executed = execute_block(&state, block).unwrap();
        new.append(block, certificate, &executed).unwrap();
        state = executed.state;
    }
    drop(new);
    let (_, again) = Store::open(dir.path(), &chain.genesis).unwrap();
    assert_eq!(again.root(), chain.states.last().unwrap().root());
}

#[test]
fn a_damaged_or_unfinished_snapshot_is_not_used() {
    let chain = kept(31, true);
    let (store, _) = chain.open();
    let heights = store.snapshots().heights();
    drop(store);
    let path = |height: u64| chain.path("snapshots").join(format!("{height:020}"));
    let bytes = fs::read(path(heights[1])).unwrap();
    fs::write(path(heights[1]), &bytes[..bytes.len() - 5]).unwrap();
    fs::write(chain.path("snapshots").join("unfinished"), &bytes).unwrap();
    let store = chain.check_kept();
    assert_eq!(store.snapshots().heights(), heights[..1]);
    assert!(!chain.path("snapshots").join("unfinished").exists());
}
