//! Line charts as SVG: the loss curve of a run, the cost curves of the benchmarks. Readable in light and dark
//! surroundings.

use std::fmt::Write;

/// One line of the chart.
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points, ascending in x.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 72.0;
/// A line of no more points than this has each of them marked.
const MARKED: usize = 16;
const COLOURS: [&str; 12] = [
    "#2f6fdb", "#d9622b", "#3a9d5d", "#8a5cc9", "#b8860b", "#d6417f", "#1b9aaa", "#7a5230", "#6b7a8f", "#a3a500",
    "#c0392b", "#16324f",
];
/// Names in a row of the legend, and the height of a row.
const LEGEND: usize = 4;
const LEGEND_ROW: f64 = 18.0;

/// How values lie along the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps for equal differences.
    Linear,
    /// Equal steps for equal ratios; all values are positive.
    Logarithmic,
}

/// A chart.
pub struct Chart<'a> {
    /// What it shows.
    pub title: &'a str,
    /// The horizontal axis, with its unit.
    pub x_label: &'a str,
    /// The vertical axis, with its unit.
    pub y_label: &'a str,
    /// Stands below the axis and says what was run.
    pub caption: &'a str,
    /// Of the horizontal axis.
    pub scale: Scale,
    /// Whether the vertical axis begins at zero, so that heights can be compared.
    pub from_zero: bool,
    /// The lines.
    pub series: &'a [Series],
}

/// Charts one below the other, as one picture.
pub fn stack(charts: &[Chart<'_>]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\">\n");
    for (i, chart) in charts.iter().enumerate() {
        // Writing into a String cannot fail.
        let _ = writeln!(svg, "<svg y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">", HEIGHT * i as f64);
        svg.push_str(&chart.svg());
        svg.push_str("</svg>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

impl Chart<'_> {
    /// The chart as a picture of its own.
    pub fn svg(&self) -> String {
        let Chart { title, x_label, y_label, caption, scale, from_zero, series } = *self;
        let top = TOP + LEGEND_ROW * (series.len().div_ceil(LEGEND).max(1) - 1) as f64;
        let along = |x: f64| if scale == Scale::Logarithmic { x.log10() } else { x };
        let all = || {
            series
                .iter()
                .flat_map(|s| s.points.iter().map(|(x, y)| (along(*x), *y)))
                .filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let bounds = |pick: fn((f64, f64)) -> f64| {
            let (low, high) =
                all().map(pick).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
            match low.partial_cmp(&high) {
                Some(std::cmp::Ordering::Less) => (low, high),
                Some(std::cmp::Ordering::Equal) => (low - 1.0, high + 1.0),
                _ => (0.0, 1.0), // no point at all
            }
        };
        let (x_low, x_high) = bounds(|p| p.0);
        let (y_low, y_high) = bounds(|p| p.1);
        let y_low = if from_zero { 0.0 } else { y_low };
        let pad = (y_high - y_low) * 0.06;
        let (y_low, y_high) = (if from_zero { 0.0 } else { y_low - pad }, y_high + pad);
        let x_at = |x: f64| LEFT + (along(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
        let y_at = |y: f64| HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - top - BOTTOM);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"13\" role=\"img\" aria-label=\"{}\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#1c2430\">{}</text>\n",
            escape(title),
            escape(title)
        );
        // Writing into a String cannot fail.
        for (step_y, value) in ticks(y_low, y_high, 6.0).into_iter().map(|(v, text)| (y_at(v), text)) {
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{step_y:.1}\" y2=\"{step_y:.1}\" stroke=\"#dfe4ea\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#5a6675\">{value}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                step_y + 4.0
            );
        }
        let x_ticks = if scale == Scale::Logarithmic { powers(x_low, x_high) } else { ticks(x_low, x_high, 8.0) };
        for (step_x, value) in x_ticks.into_iter().map(|(v, text)| (x_at(v), text)) {
            let _ = writeln!(
                svg,
                "<text x=\"{step_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#5a6675\">{value}</text>",
                HEIGHT - BOTTOM + 20.0
            );
        }
        for (i, line) in series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let points: Vec<String> =
                line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_at(*x), y_at(*y))).collect();
            let legend_x = LEFT + (WIDTH - LEFT - RIGHT) / LEGEND as f64 * (i % LEGEND) as f64;
            let legend_y = 42.0 + LEGEND_ROW * (i / LEGEND) as f64;
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>\
                 <line x1=\"{legend_x:.1}\" x2=\"{:.1}\" y1=\"{legend_y}\" y2=\"{legend_y}\" stroke=\"{colour}\" stroke-width=\"3\"/>\
                 <text x=\"{:.1}\" y=\"{}\" fill=\"#1c2430\">{}</text>",
                points.join(" "),
                legend_x + 18.0,
                legend_x + 24.0,
                legend_y + 4.0,
                escape(&line.name)
            );
            for (x, y) in line.points.iter().filter(|_| line.points.len() <= MARKED) {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>",
                    x_at(*x),
                    y_at(*y)
                );
            }
        }
        let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#1c2430\">{}</text>\n\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\" fill=\"#1c2430\">{}</text>\n\
             <text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"11\" fill=\"#5a6675\">{}</text>\n</svg>",
            HEIGHT - BOTTOM + 40.0,
            escape(x_label),
            top + (HEIGHT - top - BOTTOM) / 2.0,
            escape(y_label),
            HEIGHT - 12.0,
            escape(caption)
        );
        svg
    }
}

/// Powers of ten inside `10^low..=10^high`, with their texts.
fn powers(low: f64, high: f64) -> Vec<(f64, String)> {
    let range = (low - 1e-9).ceil() as i32..=(high + 1e-9).floor() as i32;
    let text = |power: i32| u32::try_from(power).ok().and_then(|power| 10u64.checked_pow(power)).map(grouped);
    range.map(|power| (10f64.powi(power), text(power).unwrap_or_else(|| format!("1e{power}")))).collect()
}

/// Digits in groups of three.
fn grouped(value: u64) -> String {
    if value < 1000 { value.to_string() } else { format!("{} {:03}", grouped(value / 1000), value % 1000) }
}

/// About `count` round numbers inside `low..=high`, with their texts.
fn ticks(low: f64, high: f64, count: f64) -> Vec<(f64, String)> {
    let raw = (high - low) / count;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * magnitude).find(|s| *s >= raw).unwrap_or(raw);
    let decimals = usize::try_from((-step.log10().floor()).max(0.0) as i64).unwrap_or(0);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).map(|v| (v, format!("{v:.decimals$}"))).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart<'a>(title: &'a str, scale: Scale, series: &'a [Series]) -> Chart<'a> {
        Chart { title, x_label: "x", y_label: "y", caption: "c", scale, from_zero: false, series }
    }

    fn line(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points }
    }

    #[test]
    fn a_chart_holds_every_series_and_escapes_its_texts() {
        let series = [line("one", vec![(0.0, 5.5), (1.0, 3.0), (2.0, 2.0)]), line("two", vec![(0.0, 5.0), (2.0, 2.5)])];
        let svg = chart("loss <of> \"a\" & b", Scale::Linear, &series).svg();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 5));
        assert!(svg.contains("loss &lt;of&gt; &quot;a&quot; &amp; b") && !svg.contains("NaN"));
    }

    #[test]
    fn a_chart_of_one_point_or_none_is_still_a_picture() {
        for points in [vec![], vec![(1.0, 2.0)]] {
            for scale in [Scale::Linear, Scale::Logarithmic] {
                let svg = chart("t", scale, &[line("n", points.clone())]).svg();
                assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn equal_ratios_lie_equally_far_apart_on_a_logarithmic_axis() {
        let svg =
            chart("t", Scale::Logarithmic, &[line("n", vec![(10.0, 1.0), (1000.0, 1.0), (100_000.0, 2.0)])]).svg();
        let (left, middle, right) = (LEFT, (LEFT + WIDTH - RIGHT) / 2.0, WIDTH - RIGHT);
        for x in [left, middle, right] {
            assert!(svg.contains(&format!("<circle cx=\"{x:.1}\"")), "{svg}");
        }
        assert!([">10<", ">1 000<", ">100 000<"].iter().all(|text| svg.contains(text)), "{svg}");
    }

    #[test]
    fn stacked_charts_are_all_there() {
        let series = [line("n", vec![(1.0, 2.0)])];
        let svg = stack(&[chart("above", Scale::Linear, &series), chart("below", Scale::Logarithmic, &series)]);
        assert!(svg.contains(">above<") && svg.contains(">below<"));
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }
}
