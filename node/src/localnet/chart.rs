//! A line chart as SVG: for the loss curve of a run. Readable in light and dark surroundings.

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
const RIGHT: f64 = 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 72.0;
const COLOURS: [&str; 4] = ["#2f6fdb", "#d9622b", "#3a9d5d", "#8a5cc9"];

/// Draws `series` under `title`; `caption` stands below the axis and says what was run.
pub fn line_chart(title: &str, x_label: &str, y_label: &str, caption: &str, series: &[Series]) -> String {
    let all = || series.iter().flat_map(|s| s.points.iter().copied()).filter(|(x, y)| x.is_finite() && y.is_finite());
    let bounds = |pick: fn((f64, f64)) -> f64| {
        let (low, high) = all().map(pick).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        match low.partial_cmp(&high) {
            Some(std::cmp::Ordering::Less) => (low, high),
            Some(std::cmp::Ordering::Equal) => (low - 1.0, high + 1.0),
            _ => (0.0, 1.0), // no point at all
        }
    };
    let (x_low, x_high) = bounds(|p| p.0);
    let (y_low, y_high) = bounds(|p| p.1);
    let pad = (y_high - y_low) * 0.06;
    let (y_low, y_high) = (y_low - pad, y_high + pad);
    let x_at = |x: f64| LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y_at = |y: f64| HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\" role=\"img\" aria-label=\"{}\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#1c2430\">{}</text>\n",
        escape(title),
        escape(title)
    );
    // Writing into a String cannot fail.
    for (step_y, value) in ticks(y_low, y_high).into_iter().map(|(v, text)| (y_at(v), text)) {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{step_y:.1}\" y2=\"{step_y:.1}\" stroke=\"#dfe4ea\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#5a6675\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            step_y + 4.0
        );
    }
    for (step_x, value) in ticks(x_low, x_high).into_iter().map(|(v, text)| (x_at(v), text)) {
        let _ = writeln!(
            svg,
            "<text x=\"{step_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#5a6675\">{value}</text>",
            HEIGHT - BOTTOM + 20.0
        );
    }
    for (i, line) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<String> = line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_at(*x), y_at(*y))).collect();
        let legend_x = LEFT + 190.0 * i as f64;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>\
             <line x1=\"{legend_x:.1}\" x2=\"{:.1}\" y1=\"42\" y2=\"42\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{:.1}\" y=\"46\" fill=\"#1c2430\">{}</text>",
            points.join(" "),
            legend_x + 18.0,
            legend_x + 24.0,
            escape(&line.name)
        );
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#1c2430\">{}</text>\n\
         <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\" fill=\"#1c2430\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"11\" fill=\"#5a6675\">{}</text>\n</svg>",
        HEIGHT - BOTTOM + 40.0,
        escape(x_label),
        TOP + (HEIGHT - TOP - BOTTOM) / 2.0,
        escape(y_label),
        HEIGHT - 12.0,
        escape(caption)
    );
    svg
}

/// Round numbers inside `low..=high`, with their texts.
fn ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let raw = (high - low) / 6.0;
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

    #[test]
    fn a_chart_holds_every_series_and_escapes_its_texts() {
        let line = |name: &str, points| Series { name: name.into(), points };
        let svg = line_chart(
            "loss <of> \"a\" & b",
            "round",
            "nats",
            "caption",
            &[line("one", vec![(0.0, 5.5), (1.0, 3.0), (2.0, 2.0)]), line("two", vec![(0.0, 5.0), (2.0, 2.5)])],
        );
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("loss &lt;of&gt; &quot;a&quot; &amp; b") && !svg.contains("NaN"));
    }

    #[test]
    fn a_chart_of_one_point_or_none_is_still_a_picture() {
        for points in [vec![], vec![(1.0, 2.0)]] {
            let svg = line_chart("t", "x", "y", "c", &[Series { name: "n".into(), points }]);
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
