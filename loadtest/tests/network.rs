//! The gateway and a provider as they are shipped, under load: nothing is lost, nothing grows, and no request has become
//! more expensive. With `LUMBUNG_TEST_FULL` for as long and with as many as is claimed.

use std::path::{Path, PathBuf};

use lumbung_loadtest::ask::Scenario;
use lumbung_loadtest::compare::{self, CompareArgs};
use lumbung_loadtest::crowd::{self, CrowdArgs, Held};
use lumbung_loadtest::instructions::{self, Instructions};
use lumbung_loadtest::network::Setup;
use lumbung_loadtest::scale::{self, ScaleArgs};
use lumbung_loadtest::soak::{self, SoakArgs};

/// What a test of a few may see of an allocator that takes and gives back megabytes at a time, in KiB.
const ALLOCATOR_KIB: f64 = 16.0 * 1024.0;

/// Where the programs are.
fn bin() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lumbung-loadtest")).parent().expect("a folder").to_owned()
}

fn is_full() -> bool {
    std::env::var_os("LUMBUNG_TEST_FULL").is_some()
}

#[tokio::test]
async fn a_mixture_of_everything_for_a_long_time_leaves_nothing_behind_and_exact_books() {
    let (seconds, rate) = if is_full() { (900.0, 100.0) } else { (60.0, 30.0) };
    let args = SoakArgs { seconds, rate, connections: 1024, scenario: Scenario::Mixed, bin: Some(bin()) };
    let soaked = soak::soak(&args).await.expect("whole answers and exact books");
    println!("{}", soaked.markdown());
    soaked.check().expect("nothing grows");
    assert!(soaked.books.left > 0 && soaked.books.completion_tokens > 0, "{:?}", soaked.books);
}

#[tokio::test]
async fn many_streams_are_whole_and_connections_and_tunnels_take_little() {
    let args = match is_full() {
        true => CrowdArgs { streams: 512, slow_streams: 4096, connections: 10_000, tunnels: 2000, bin: Some(bin()) },
        false => CrowdArgs { streams: 100, slow_streams: 0, connections: 1000, tunnels: 300, bin: Some(bin()) },
    };
    let crowd = crowd::crowd(&args).await.expect("whole streams");
    println!("{}", crowd.markdown());
    for streams in [crowd.streams, crowd.slow_streams].into_iter().flatten() {
        assert!(streams.whole >= streams.count as u64, "{} of {}", streams.whole, streams.count);
    }
    for Held { count, kib_each } in [crowd.connections, crowd.tunnels].into_iter().flatten() {
        assert!(kib_each * count as f64 <= 64.0 * count as f64 + ALLOCATOR_KIB, "{kib_each} KiB for each of {count}");
    }
}

#[tokio::test]
async fn providers_without_processes_and_many_accounts_are_asked_like_others() {
    let (prompts, providers, replicas) = (Vec::new(), Vec::new(), Vec::new());
    let (stubs, accounts, rate, seconds, rest) = (vec![3], vec![1, 20], 20.0, 1.0, 1.0);
    let (database, redis, bin) = (None, None, Some(bin()));
    let args = ScaleArgs { prompts, providers, stubs, accounts, replicas, rate, seconds, rest, database, redis, bin };
    let rows = scale::scale(&args).await.expect("whole answers and exact books");
    println!("{}", scale::markdown(&rows));
    assert_eq!(rows.len(), 3);
    // So few requests may take less CPU time than can be told.
    assert!(rows.iter().all(|row| row.p50_ms > 0.0 && row.rss_mib > 1.0), "{rows:?}");
}

#[tokio::test]
async fn a_comparison_has_the_gateways_figures_at_every_rate_and_beside_what_stands_behind_it() {
    let (beside, rounds, seconds, warm_up, rates) = (Vec::new(), 1, 1.0, 0.2, vec![20.0, 40.0]);
    let (connections, streams, bin, database, json) = (2, 2, Some(bin()), None, false);
    let args = CompareArgs { beside, rounds, seconds, warm_up, connections, rates, streams, bin, database, json };
    let comparison = compare::compare(&args).await.expect("whole answers and exact books");
    println!("{}", comparison.markdown());
    let expected = [
        "CPU µs per request at 20/s",
        "CPU µs per request at 20/s, without the books",
        "CPU µs per request at 40/s",
        "CPU µs per request at 40/s, without the books",
        "CPU µs per chunk",
        "added p50, µs",
        "added p99, µs",
        "added to the first token p50, µs",
        "added to the first token p99, µs",
        "added p50 with the provider, µs",
        "added to the first token p50 with the provider, µs",
        "peak memory, MiB",
    ];
    assert_eq!(comparison.table.figures, expected);
    assert_eq!(comparison.completion.rate, Some(20.0), "the first rate is shown");
    // So few requests may take less CPU time than can be told.
    let figure = |name: &str| comparison.table.row(name)[0].1;
    assert!(figure(&compare::cpu_per_request(40.0)) >= 0.0 && figure("peak memory, MiB") > 1.0);
}

#[tokio::test]
async fn no_request_takes_many_more_instructions_than_it_did() {
    let setup = Setup::new(Some(&bin())).expect("a setup");
    let count = async || instructions::count(&setup, 60, None).await.expect("a count");
    let mut counted = count().await;
    println!("{}: {counted:?}", instructions::build());
    assert!(counted.completion > 10_000 && counted.stream > 10_000, "{counted:?}: requests were counted");
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let baseline = instructions::read(&baseline).expect("a baseline");
    let is_known = baseline.contains_key(&instructions::build());
    if !is_known {
        println!("there is nothing to compare with for programs that were built like this, but for what traces add");
    }
    let compare = |counted: Instructions| if is_known { counted.compare(&baseline) } else { counted.compare_traced() };
    // What goes on in the background on a busy machine can only add to a count.
    for _ in 0..2 {
        if compare(counted).is_ok() {
            break;
        }
        let Instructions { completion, stream, traced } = count().await;
        let lower = |one: u64, other: u64| one.min(other);
        counted = Instructions {
            completion: lower(counted.completion, completion),
            stream: lower(counted.stream, stream),
            traced: lower(counted.traced, traced),
        };
    }
    compare(counted).expect("no more than a tenth was added, and a twentieth for traces");
}
