//! Plots as SVG: a distribution of times, and bars of figures side by side.

use std::fmt::Write;

/// Distinct, and told apart by the colour-blind.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;

/// Where the percentiles' axis is marked.
const MARKS: [(f64, &str); 6] =
    [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];

/// Times by percentile, one line for each name; both axes logarithmic, so that the slowest can be told apart.
pub fn percentiles(title: &str, lines: &[(&str, &[(f64, f64)])]) -> String {
    let all = || lines.iter().flat_map(|(_, curve)| curve.iter().map(|(_, ms)| ms.max(0.01)));
    let low = all().fold(f64::INFINITY, f64::min).log10().floor();
    let high = all().fold(0.01, f64::max).log10().ceil().max(low + 1.0);
    let x = |quantile: f64| LEFT + (WIDTH - LEFT - RIGHT) * nines(quantile) / nines(0.9999);
    let y = |ms: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (ms.max(0.01).log10() - low) / (high - low);
    let mut svg = frame(title, WIDTH, HEIGHT);
    for (quantile, label) in MARKS {
        grid(&mut svg, (x(quantile), TOP), (x(quantile), HEIGHT - BOTTOM));
        text(&mut svg, x(quantile), HEIGHT - BOTTOM + 18.0, "middle", label);
    }
    for power in low as i32..=high as i32 {
        let ms = 10f64.powi(power);
        grid(&mut svg, (LEFT, y(ms)), (WIDTH - RIGHT, y(ms)));
        text(&mut svg, LEFT - 6.0, y(ms) + 4.0, "end", &format!("{ms} ms"));
    }
    for ((name, curve), (place, colour)) in lines.iter().zip(COLOURS.iter().cycle().enumerate()) {
        let points: Vec<String> = curve.iter().map(|(q, ms)| format!("{:.1},{:.1}", x(*q), y(*ms))).collect();
        push(
            &mut svg,
            format_args!(r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/>"#, points.join(" ")),
        );
        let at = TOP + 10.0 + 20.0 * place as f64;
        push(
            &mut svg,
            format_args!(
                r#"<rect x="{}" y="{}" width="12" height="4" fill="{colour}"/>"#,
                WIDTH - RIGHT + 12.0,
                at - 6.0
            ),
        );
        text(&mut svg, WIDTH - RIGHT + 30.0, at, "start", name);
    }
    svg + "</svg>\n"
}

/// A bar for each name, from zero.
pub fn bars(title: &str, unit: &str, bars: &[(String, f64)]) -> String {
    let (height, step) = (TOP + 30.0 * bars.len() as f64 + 12.0, 30.0);
    let most = bars.iter().map(|(_, figure)| *figure).fold(f64::MIN_POSITIVE, f64::max);
    let (from, room) = (170.0, WIDTH - 170.0 - 110.0);
    let mut svg = frame(title, WIDTH, height);
    for (place, (name, figure)) in bars.iter().enumerate() {
        let y = TOP + step * place as f64;
        let colour = COLOURS[usize::from(place > 0)];
        let width = (room * figure / most).max(1.0);
        push(&mut svg, format_args!(r#"<rect x="{from}" y="{y:.1}" width="{width:.1}" height="20" fill="{colour}"/>"#));
        text(&mut svg, from - 8.0, y + 15.0, "end", name);
        text(&mut svg, from + width + 6.0, y + 15.0, "start", &format!("{figure:.1} {unit}"));
    }
    svg + "</svg>\n"
}

/// How many nines a quantile has; the slowest of all counts as four.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile.min(0.9999)).log10()
}

fn frame(title: &str, width: f64, height: f64) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">"#
    );
    push(&mut svg, format_args!("\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"));
    push(
        &mut svg,
        format_args!(
            r#"<text x="{}" y="22" font-size="14" text-anchor="middle">{}</text>"#,
            width / 2.0,
            escaped(title)
        ),
    );
    svg
}

fn grid(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    push(
        svg,
        format_args!(
            r##"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="#ddd"/>"##,
            from.0, from.1, to.0, to.1
        ),
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    push(svg, format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(words)));
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a string takes everything");
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_lie_higher_and_the_rarer_further_to_the_right() {
        let svg = percentiles("a < b", &[("us", &[(0.0, 0.1), (0.5, 1.0), (1.0, 90.0)])]);
        let line = svg.lines().find(|line| line.contains("polyline")).expect("a line");
        let points = line.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("points");
        let points: Vec<(f64, f64)> = points
            .split(' ')
            .map(|point| point.split_once(',').expect("x and y"))
            .map(|(x, y)| (x.parse().expect("a number"), y.parse().expect("a number")))
            .collect();
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1), "{points:?}");
        assert!(points.iter().all(|(x, y)| (0.0..=WIDTH).contains(x) && (0.0..=HEIGHT).contains(y)), "{points:?}");
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let svg = bars("CPU", "µs", &[("ours".into(), 50.0), ("theirs".into(), 100.0)]);
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("height=\"20\""))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths, [220.0, 440.0]);
    }
}
