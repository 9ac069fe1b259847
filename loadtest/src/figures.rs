//! Figures of several servers, by name: their medians over all rounds, and the ratios to the first peer's of the same round,
//! because microseconds of different machines cannot be compared.

use std::collections::BTreeMap;

use serde::Serialize;

/// What one server came to in one round, by name and in the order of the table.
#[derive(Clone, Debug, Default)]
pub struct Round(Vec<(String, f64)>);

/// A server, and what it came to in each round. Figures that a round lacks are lacking in the table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Who.
    pub name: &'static str,
    /// Its version, as installed.
    pub version: String,
    /// Its rounds.
    pub rounds: Vec<Round>,
}

/// Everyone's figures.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What is measured, with units, in order.
    pub figures: Vec<String>,
    /// Who was measured, the first peer second.
    pub servers: Vec<Figures>,
}

/// Medians over all rounds.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Who.
    pub name: &'static str,
    /// Its version, as installed.
    pub version: String,
    /// By name, each with its ratio to the first peer's in the same round.
    pub medians: BTreeMap<String, Median>,
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Median {
    /// Itself.
    pub figure: f64,
    /// Times the first peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Round {
    /// Adds a figure.
    pub fn note(&mut self, name: impl Into<String>, figure: f64) {
        self.0.push((name.into(), figure));
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, figure)| *figure)
    }
}

impl Column {
    /// Without rounds yet.
    pub fn new(name: &'static str, version: String) -> Self {
        Self { name, version, rounds: Vec::new() }
    }

    /// One figure, round by round; `None` unless every round has it.
    fn figures(&self, name: &str) -> Option<Vec<f64>> {
        self.rounds.iter().map(|round| round.get(name)).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }

    fn medians(&self, names: &[String], floor: Option<&Self>) -> Figures {
        let of = |name: &String| {
            let column = self.figures(name)?;
            let ratio = floor.and_then(|floor| {
                let floor = floor.figures(name)?;
                Some(median(column.iter().zip(&floor).map(|(ours, floor)| ours / floor.max(0.1)).collect()))
            });
            Some((name.clone(), Median { figure: median(column), ratio }))
        };
        Figures { name: self.name, version: self.version.clone(), medians: names.iter().filter_map(of).collect() }
    }
}

impl Table {
    /// Of the gateway, which has every figure, and its peers.
    pub fn of(columns: &[&Column]) -> Self {
        let all = columns.first().and_then(|ours| ours.rounds.first());
        let figures: Vec<String> =
            all.map_or_else(Vec::new, |round| round.0.iter().map(|(name, _)| name.clone()).collect());
        let servers = columns.iter().map(|column| column.medians(&figures, columns.get(1).copied())).collect();
        Self { figures, servers }
    }

    /// A figure of everyone who has it.
    pub fn row(&self, figure: &str) -> Vec<(String, f64)> {
        let of = |server: &Figures| Some((server.name.to_owned(), server.medians.get(figure)?.figure));
        self.servers.iter().filter_map(of).collect()
    }

    /// A row for each figure, a column for each server.
    pub fn markdown(&self) -> String {
        let names = self.servers.iter().map(|server| format!(" {} {} |", server.name, server.version));
        let mut text = format!("| |{}\n|---|{}\n", names.collect::<String>(), "---|".repeat(self.servers.len()));
        for name in &self.figures {
            text += &format!("| {name} |");
            for server in &self.servers {
                match server.medians.get(name) {
                    Some(Median { figure, ratio: Some(ratio) }) => text += &format!(" {figure:.1} ({ratio:.2} ×) |"),
                    Some(Median { figure, ratio: None }) => text += &format!(" {figure:.1} |"),
                    None => text += " |",
                }
            }
            text += "\n";
        }
        text
    }
}

/// The middle one; of two, the mean.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => figures[count / 2],
        count => f64::midpoint(figures[count / 2 - 1], figures[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn ratios_are_of_the_same_round_and_what_a_server_lacks_is_left_blank() {
        let column = |name, rounds: &[&[(&str, f64)]]| {
            let mut column = Column::new(name, "1".into());
            for figures in rounds {
                let mut round = Round::default();
                figures.iter().for_each(|(name, figure)| round.note(*name, *figure));
                column.rounds.push(round);
            }
            column
        };
        let ours =
            column("ours", &[&[("b", 10.0), ("a", 1.0)], &[("b", 40.0), ("a", 2.0)], &[("b", 60.0), ("a", 3.0)]]);
        let floor = column("floor", &[&[("b", 10.0)], &[("b", 20.0)], &[("b", 20.0)]]);
        let table = Table::of(&[&ours, &floor]);
        assert_eq!(table.figures, ["b", "a"], "in the order of the rounds");
        assert_eq!(table.servers[0].medians["b"], Median { figure: 40.0, ratio: Some(2.0) });
        assert_eq!(table.row("a"), [("ours".to_owned(), 2.0)]);
        let text = table.markdown();
        assert!(text.ends_with("| b | 40.0 (2.00 ×) | 20.0 (1.00 ×) |\n| a | 2.0 | |\n"), "{text}");
    }
}
