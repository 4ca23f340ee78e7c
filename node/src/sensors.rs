//! How warm the processor and the graphics cards are, and what they draw, where the machine tells. What it does not tell is absent.

use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How often sensors are read.
const EACH: Duration = Duration::from_secs(10);
/// `nvidia-smi` answers within this time.
const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// Entries of a folder that are looked at, and graphics cards that are shown, at most.
const MAX_ENTRIES: usize = 256;
const MAX_CARDS: usize = 16;
/// Temperatures of a processor are within these, in degrees; what a broken sensor says is not.
const PLAUSIBLE: std::ops::Range<f64> = -40.0..200.0;

/// What sensors say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sensors {
    /// The processor's temperature at its warmest place, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_celsius: Option<f64>,
    /// What the processor drew since the last look, in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_watts: Option<f64>,
    /// The graphics cards.
    pub gpus: Vec<Card>,
}

/// A graphics card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// What it is called.
    pub name: String,
    /// Its temperature, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub celsius: Option<f64>,
    /// What it draws, in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts: Option<f64>,
    /// How busy it is, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
    /// Bytes of its memory that are in use, of so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<(u64, u64)>,
}

/// Reads the sensors until `stop`; the newest reading is in the channel.
pub fn watch(mut stop: watch::Receiver<bool>) -> watch::Receiver<Arc<Sensors>> {
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(async move {
        let mut meter = Meter::default();
        loop {
            let mut read =
                Sensors { cpu_watts: meter.watts(Instant::now(), energies(Path::new("/"))), ..files(Path::new("/")) };
            if Path::new("/proc/driver/nvidia").exists() {
                read.gpus.extend(nvidia().await);
                read.gpus.truncate(MAX_CARDS);
            }
            sender.send_replace(Arc::new(read));
            tokio::select! {
                () = tokio::time::sleep(EACH) => {}
                _ = stop.changed() => break,
            }
        }
    });
    receiver
}

/// A small file's text.
fn text(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_string())
}

fn number(path: &Path) -> Option<f64> {
    text(path)?.parse().ok()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_ENTRIES).map(|entry| entry.path()).collect();
    all.sort();
    all
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The files `PREFIX..SUFFIX` of a sensor, such as `temp1_input`.
fn values(sensor: &Path, prefix: &str, suffix: &str) -> Vec<f64> {
    let of_kind = |path: &PathBuf| name_of(path).starts_with(prefix) && name_of(path).ends_with(suffix);
    entries(sensor).into_iter().filter(of_kind).filter_map(|path| number(&path)).collect()
}

fn warmest(millidegrees: Vec<f64>) -> Option<f64> {
    millidegrees.into_iter().map(|value| value / 1000.0).filter(|value| PLAUSIBLE.contains(value)).reduce(f64::max)
}

/// What the files under `root` say, as the kernel lays them out: hwmon(5), thermal zones where there is no hwmon.
fn files(root: &Path) -> Sensors {
    let sensors = entries(&root.join("sys/class/hwmon"));
    let named = |sensor: &Path| text(&sensor.join("name")).unwrap_or_default();
    let processors = ["coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "xgene_hwmon"];
    let of_cpu = sensors.iter().filter(|sensor| processors.contains(&named(sensor).as_str()));
    let cpu = warmest(of_cpu.flat_map(|sensor| values(sensor, "temp", "_input")).collect());
    let zone = |zone: &PathBuf| {
        let kind = text(&zone.join("type")).unwrap_or_default().to_lowercase();
        (kind.contains("cpu") || kind.contains("x86_pkg") || kind.contains("soc"))
            .then(|| number(&zone.join("temp")))?
    };
    let zones = || warmest(entries(&root.join("sys/class/thermal")).iter().filter_map(zone).collect());
    let card = |sensor: &PathBuf| {
        (named(sensor) == "amdgpu").then(|| {
            let device = sensor.join("device");
            let watts = ["power1_average", "power1_input"].iter().find_map(|name| number(&sensor.join(name)));
            let bytes = |name: &str| number(&device.join(name)).map(|bytes| bytes as u64);
            Card {
                name: text(&device.join("product_name")).filter(|name| !name.is_empty()).unwrap_or("AMD".into()),
                celsius: warmest(values(sensor, "temp", "_input")),
                watts: watts.map(|microwatts| microwatts / 1e6),
                busy: number(&device.join("gpu_busy_percent")).map(|percent| percent / 100.0),
                memory: bytes("mem_info_vram_used").zip(bytes("mem_info_vram_total")),
            }
        })
    };
    Sensors {
        cpu_celsius: cpu.or_else(zones),
        cpu_watts: None,
        gpus: sensors.iter().filter_map(card).take(MAX_CARDS).collect(),
    }
}

/// Microjoules that each processor has used, and where the counter begins anew. Most systems show them to root alone.
fn energies(root: &Path) -> Vec<(f64, f64)> {
    let zones = entries(&root.join("sys/class/powercap"));
    // intel-rapl:0 is a processor (AMD's, too), intel-rapl:0:0 a part of it.
    let whole =
        zones.iter().filter(|zone| name_of(zone).starts_with("intel-rapl:") && name_of(zone).matches(':').count() == 1);
    let package = whole.filter(|zone| text(&zone.join("name")).is_some_and(|name| name.starts_with("package")));
    package
        .filter_map(|zone| Some((number(&zone.join("energy_uj"))?, number(&zone.join("max_energy_range_uj"))?)))
        .collect()
}

/// Makes power of energy.
#[derive(Default)]
struct Meter(Option<(Instant, Vec<(f64, f64)>)>);

impl Meter {
    fn watts(&mut self, now: Instant, energies: Vec<(f64, f64)>) -> Option<f64> {
        let (then, before) = self.0.replace((now, energies.clone()))?;
        let seconds = now.duration_since(then).as_secs_f64();
        if energies.is_empty() || energies.len() != before.len() || seconds <= 0.0 {
            return None;
        }
        let used = |((now, range), (before, _)): (&(f64, f64), &(f64, f64))| {
            let used = now - before;
            if used < 0.0 { used + range } else { used }
        };
        Some(energies.iter().zip(&before).map(used).sum::<f64>() / 1e6 / seconds)
    }
}

/// What NVIDIA's own tool says, where its driver is.
async fn nvidia() -> Vec<Card> {
    let mut ask = tokio::process::Command::new("nvidia-smi");
    ask.args(["--query-gpu=name,temperature.gpu,power.draw,utilization.gpu,memory.used,memory.total"])
        .arg("--format=csv,noheader,nounits")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(ASKED_WITHIN, ask.output()).await {
        Ok(Ok(output)) if output.status.success() => cards(&String::from_utf8_lossy(&output.stdout)),
        _ => Vec::new(),
    }
}

/// Its lines; what a card does not tell stands there as `[N/A]`.
fn cards(text: &str) -> Vec<Card> {
    let card = |line: &str| {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [name, celsius, watts, busy, used, total] = fields.try_into().ok()?;
        let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
        let bytes = |text: &str| number(text).map(|mebibytes| (mebibytes * (1u64 << 20) as f64) as u64);
        Some(Card {
            name: name.chars().filter(|c| !c.is_control()).take(64).collect(),
            celsius: number(celsius),
            watts: number(watts),
            busy: number(busy).map(|percent| percent / 100.0),
            memory: bytes(used).zip(bytes(total)),
        })
    };
    text.lines().filter_map(card).take(MAX_CARDS).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        root
    }

    #[test]
    fn a_processor_and_a_card_are_read_and_what_is_not_told_is_absent() {
        let root = machine(&[
            ("sys/class/hwmon/hwmon0/name", "nvme"),
            ("sys/class/hwmon/hwmon0/temp1_input", "90000"),
            ("sys/class/hwmon/hwmon1/name", "k10temp"),
            ("sys/class/hwmon/hwmon1/temp1_input", "61500"),
            ("sys/class/hwmon/hwmon1/temp3_input", "65250"),
            ("sys/class/hwmon/hwmon1/temp4_input", "-273000"),
            ("sys/class/hwmon/hwmon2/name", "amdgpu"),
            ("sys/class/hwmon/hwmon2/temp1_input", "47000"),
            ("sys/class/hwmon/hwmon2/power1_average", "31000000"),
            ("sys/class/hwmon/hwmon2/device/gpu_busy_percent", "25"),
        ]);
        let read = files(root.path());
        assert_eq!((read.cpu_celsius, read.cpu_watts), (Some(65.25), None));
        let card = Card { name: "AMD".into(), celsius: Some(47.0), watts: Some(31.0), busy: Some(0.25), memory: None };
        assert_eq!(read.gpus, [card]);

        let zones = machine(&[
            ("sys/class/thermal/thermal_zone0/type", "acpitz"),
            ("sys/class/thermal/thermal_zone0/temp", "20000"),
            ("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp"),
            ("sys/class/thermal/thermal_zone1/temp", "55000"),
        ]);
        assert_eq!(files(zones.path()).cpu_celsius, Some(55.0));
        assert_eq!(files(machine(&[]).path()), Sensors::default());
    }

    #[test]
    fn power_is_energy_over_time_across_the_counters_end_too() {
        let root = machine(&[
            ("sys/class/powercap/intel-rapl:0/name", "package-0"),
            ("sys/class/powercap/intel-rapl:0/energy_uj", "900"),
            ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "1000"),
            ("sys/class/powercap/intel-rapl:0:0/name", "core"),
            ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5"),
            ("sys/class/powercap/intel-rapl:1/name", "psys"),
        ]);
        assert_eq!(energies(root.path()), [(900.0, 1000.0)]);
        let (mut meter, start) = (Meter::default(), Instant::now());
        let watts = |meter: &mut Meter, seconds, joules: f64| {
            meter.watts(start + Duration::from_secs(seconds), vec![(joules * 1e6, 1000e6)])
        };
        assert_eq!(watts(&mut meter, 0, 900.0), None);
        assert_eq!(watts(&mut meter, 10, 950.0), Some(5.0));
        assert_eq!(watts(&mut meter, 20, 50.0), Some(10.0));
        assert_eq!(meter.watts(start + Duration::from_secs(30), Vec::new()), None, "nobody may read it any more");
    }

    #[test]
    fn cards_that_do_not_tell_everything_are_shown_with_what_they_tell() {
        let read =
            cards("NVIDIA H200, 38, 117.52, 7, 1024, 143771\nGeForce, 50, [N/A], [Not Supported], 1, 2\ngarbage\n");
        assert_eq!((read[0].celsius, read[0].watts, read[0].busy), (Some(38.0), Some(117.52), Some(0.07)));
        assert_eq!(read[0].memory, Some((1 << 30, 143_771 << 20)));
        assert_eq!((read[1].celsius, read[1].watts, read[1].busy, read.len()), (Some(50.0), None, None, 2));
    }
}
