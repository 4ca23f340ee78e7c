//! `ailo-node`: trains and serves one language model together with its peers. See `ailo-node --help`.

use ailo_node::{
    cli::{Cli, Command},
    commands,
    error::NodeError,
    output,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{os::unix::process::CommandExt, process::ExitCode, time::Duration};

/// How the allocator of glibc is to treat a node, which runs long and frees on one thread what another has made: with an
/// arena for each thread and no bound on what stays in it, a validator under load holds a third more memory than it uses;
/// where blocks and their buffers get mappings of their own, or what is free goes back at once, it waits for the kernel.
/// Whoever sets the first of them decides alone. See `mallopt(3)`.
const HEAP: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "4"), ("MALLOC_TRIM_THRESHOLD_", "67108864"), ("MALLOC_MMAP_THRESHOLD_", "8388608")];

fn main() -> ExitCode {
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    if matches!(cli.command, Command::Run(_)) && std::env::var_os(HEAP[0].0).is_none() {
        start_again_with_its_heap();
    }
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(|e| NodeError::io("start the runtime", e)).and_then(|runtime| {
        let outcome = runtime.block_on(commands::dispatch(cli));
        // A blocking task that still runs (a slow disk, a long step) must not hold up the exit.
        runtime.shutdown_timeout(Duration::from_millis(500));
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            output::complain(&e);
            ExitCode::from(e.kind().code())
        }
    }
}

/// Every run of the index is an open file; systems start a process with far fewer than it may have.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }); // then it runs with what it has
}

/// glibc reads its settings before `main`: the node takes its own place, with the same arguments. Comes back where that
/// cannot be done; then it runs as it is.
fn start_again_with_its_heap() {
    let Ok(program) = std::env::current_exe() else { return };
    let _ = std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(HEAP).exec();
}
