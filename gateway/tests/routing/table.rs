//! The table in ROUTING.md.

use std::fmt::Write;

use crate::policy::Policy;
use crate::simulation::{Outcome, Plan, run};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ROUTING.md");
const BEGIN: &str = "<!-- simulated: written by `make simulate` -->\n";
const END: &str = "<!-- end -->\n";

fn row(table: &mut String, outcome: &Outcome) {
    let Outcome { ttft_p50, ttft_p99, total_p50, total_p99, price, cost, .. } = outcome;
    writeln!(
        table,
        "| {} | {ttft_p50:.2} s | {ttft_p99:.2} s | {total_p50:.1} s | {total_p99:.1} s | ${price:.4} | ${cost:.4} | {:.2} | {:.0} % | {:.2} % | {:.3} % |",
        outcome.policy.name(),
        outcome.imbalance,
        100.0 * outcome.prefix_hits,
        100.0 * outcome.retried,
        100.0 * outcome.failed,
    )
    .expect("a string takes it");
}

#[test]
#[ignore = "writes ROUTING.md: make simulate"]
fn write() {
    let mut table = String::from(BEGIN);
    for load in [0.3, 0.6, 0.9] {
        let plan = Plan { providers: 1000, requests: 200_000, load, seed: 1 };
        writeln!(
            table,
            "\n{} providers, {} requests, at {:.0} % of what all can do together:\n",
            plan.providers,
            plan.requests,
            100.0 * load
        )
        .expect("a string takes it");
        table += "| | first token p50 | p99 | whole answer p50 | p99 | price of 1000 | with time | imbalance | prefix hits | tried again | failed |\n";
        table += "|---|---|---|---|---|---|---|---|---|---|---|\n";
        for policy in Policy::ALL {
            row(&mut table, &run(&plan, policy));
        }
    }
    table += "\n";
    table += END;
    let page = std::fs::read_to_string(PAGE).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("where the table begins");
    let (_, after) = rest.split_once(END).expect("where it ends");
    std::fs::write(PAGE, format!("{before}{table}{after}")).expect("written");
    println!("{table}");
}
