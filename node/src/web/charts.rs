//! Small line charts for pages: one line, its last value in words, readable in light and dark, and as a table by screen readers' title.

use super::say;
use maud::{Markup, html};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 96.0;
const EDGE: f64 = 4.0;

/// What the points of a chart are seen over.
#[derive(Clone, Copy)]
pub enum Over {
    /// Milliseconds since 1970.
    Time,
    /// Rounds.
    Rounds,
}

impl Over {
    /// Where the chart of points from `first` to `last` begins and ends.
    fn ends(self, first: f64, last: f64) -> [Markup; 2] {
        match self {
            Over::Time => say::times(first as u64, last as u64),
            Over::Rounds => [first, last].map(|round| html! { "round " (round) }),
        }
    }
}

/// A number of ALC in words: two decimals, and of less than one the six that a chart can tell apart.
pub fn coins(alc: f64) -> String {
    if alc.abs() < 1.0 && alc != 0.0 { format!("{alc:.6}") } else { format!("{alc:.2}") }
}

/// A chart of `points` (x ascending), named `name`, whose values `write` puts into words. One point is a number and no line.
pub fn line(name: &str, over: Over, points: &[(f64, f64)], write: impl Fn(f64) -> String) -> Markup {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let (Some(first), Some(last)) = (finite.first(), finite.last()) else { return empty(name) };
    if finite.len() < 2 || last.0 <= first.0 {
        return html! {
            figure.chart {
                figcaption { (name) " " b { (write(last.1)) } }
                p.none { "A line will begin here with the next value" }
            }
        };
    }
    let (low, high) = finite.iter().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let tall = if high > low { high - low } else { 1.0 };
    let x = |x: f64| EDGE + (x - first.0) / (last.0 - first.0) * (WIDTH - 2.0 * EDGE);
    let y = |y: f64| HEIGHT - EDGE - (y - low) / tall * (HEIGHT - 2.0 * EDGE);
    let path: Vec<String> = finite.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
    let [begin, end] = over.ends(first.0, last.0);
    let said =
        format!("{name}: from {} to {}, between {} and {}", write(first.1), write(last.1), write(low), write(high));
    html! {
        figure.chart {
            figcaption { (name) " " b { (write(last.1)) } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(said) preserveAspectRatio="none" {
                polyline.line points=(path.join(" ")) {}
            }
            small.ends { span { (begin) } span { (end) } }
            small { "between " (write(low)) " and " (write(high)) }
        }
    }
}

fn empty(name: &str) -> Markup {
    html! {
        figure.chart {
            figcaption { (name) }
            p.none { "Nothing to draw yet" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_drawn_of_two_points_or_more_and_says_in_words_what_it_shows() {
        let write = |value: f64| format!("{value:.1}");
        assert!(line("loss", Over::Rounds, &[(1.0, f64::NAN)], write).into_string().contains("Nothing to draw"));
        for points in [&[(1.0, 2.0)][..], &[(1.0, f64::NAN), (2.0, 2.0)]] {
            let one = line("loss", Over::Rounds, points, write).into_string();
            assert!(one.contains("<b>2.0</b>") && !one.contains("<svg"), "{one}");
        }
        let flat = line("loss", Over::Rounds, &[(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)], write).into_string();
        assert!(flat.contains("loss: from 2.0 to 2.0") && !flat.contains("NaN"), "{flat}");
        assert!(flat.contains("round 1") && flat.contains("round 3"), "{flat}");
        let falls = line("a <b>", Over::Time, &[(0.0, 5.0), (10.0, 1.0)], write).into_string();
        assert!(falls.contains("a &lt;b&gt;") && falls.contains("4.0,4.0 316.0,92.0"), "{falls}");
    }
}
