"""The conditions of the corpus; beside each, what samedec and an ideal receiver make of 20 messages."""

from __future__ import annotations

from bench.same_air import (
    Condition,
    clipped,
    codec,
    damage,
    dropouts,
    echo,
    fading,
    hum,
    mu_law,
    phone,
    slip,
    speech_over,
    steps,
    tilt,
)

CONDITIONS = (
    Condition(name="30 dB"),
    Condition(name="3 dB", snr=3, samedec="20", bound="20"),
    Condition(name="0 dB", snr=0, samedec="20", bound="20"),
    Condition(name="-1.5 dB", snr=-1.5, samedec="20", bound="20"),
    Condition(name="-3 dB", snr=-3, samedec="19 w1", bound="20", target=0.99),
    Condition(name="-4.5 dB", snr=-4.5, samedec="12 w1", bound="20", target=0.99),
    Condition(name="-6 dB", snr=-6, samedec="0", bound="20", target=0.9),
    Condition(name="-7.5 dB", snr=-7.5, samedec="0", bound="17", target=0.5),
    Condition(name="-9 dB", snr=-9, samedec="0", bound="14", target=0),
    Condition(name="clock -3 %", clock=-0.03, samedec="4", bound="20", target=0.99),
    Condition(name="clock +1 %", clock=0.01, samedec="20", bound="20"),
    Condition(name="clock +2 %", clock=0.02, samedec="20", bound="20"),
    Condition(name="clock +3 %", clock=0.03, samedec="7", bound="20", target=0.99),
    Condition(name="300-3400 Hz, 0 dB", snr=0, after=phone, samedec="20", bound="20"),
    Condition(name="8 kHz mu-law", rate=8000, after=mu_law, samedec="20", bound="20"),
    Condition(name="MP3 24 kb/s", after=codec("libmp3lame", 24), samedec="20", bound="20"),
    Condition(name="MP3 16 kb/s", after=codec("libmp3lame", 16), samedec="14 w4", bound="18", target=0.8),
    *(
        Condition(
            name=f"Opus voice {kilobits} kb/s",
            after=codec("libopus", kilobits, application="voip"),
            samedec=samedec,
            bound=bound,
            target=target,
        )
        for kilobits, samedec, bound, target in (
            (24, "20", "20", 1.0),
            (16, "20", "20", 1.0),
            (12, "15", "20", 0.95),
            (8, "0", "0", 0.0),
        )
    ),
    Condition(name="hum 60 Hz +12 dB", channel=hum, samedec="20", bound="20"),
    Condition(name="one burst lost", lost=True, samedec="20", bound="20"),
    Condition(name="one burst lost, -3 dB", lost=True, snr=-3, samedec="5 w1", bound="20", target=0.99),
    Condition(name="2 bytes damaged", text=damage(2), samedec="20", bound="20"),
    Condition(name="8 bytes damaged", text=damage(8), samedec="20", bound="20"),
    Condition(name="20 bytes damaged", text=damage(20), places=(4, 9), samedec="0", bound="20", target=0.99),
    Condition(name="-60 dBFS", level=0.001 * 2**0.5, samedec="0", bound="20"),
    Condition(name="-70 dBFS", level=0.000316 * 2**0.5, samedec="0", bound="20", target=0.99),
    Condition(name="tilt -12 dB", channel=tilt(-12), samedec="7", bound="20", target=0.99),
    Condition(name="tilt -6 dB", channel=tilt(-6), samedec="20", bound="20"),
    Condition(name="tilt +6 dB", channel=tilt(6), samedec="20", bound="20"),
    Condition(name="tilt +12 dB", channel=tilt(12), samedec="20", bound="20", target=0.99),
    Condition(name="speech at -6 dB", channel=speech_over(-6), samedec="20", bound="20"),
    Condition(name="speech at 0 dB", channel=speech_over(0), samedec="18 w1", bound="20", target=0.99),
    Condition(name="fading 3 Hz, 20 dB", channel=fading, samedec="9", bound="20", target=0.99),
    Condition(name="dropouts 3 x 10 ms", burst=dropouts(10), samedec="1", bound="20", target=0.9),
    Condition(name="dropouts 3 x 40 ms", burst=dropouts(40), samedec="0", bound="17", target=0),
    Condition(name="5 ms lost", burst=slip, samedec="0", target=0.9),
    Condition(name="echo 1 ms", channel=echo(1), samedec="20", bound="20"),
    Condition(name="echo 5 ms", channel=echo(5), samedec="20", bound="20"),
    Condition(name="echo 20 ms", channel=echo(20), samedec="20", bound="20"),
    *(
        Condition(name=f"{rate / 1000:g} kHz", rate=rate)
        for rate in (8000, 11025, 16000, 44100, 48000, 96000)
    ),
    Condition(name="96 kHz, -3 dB", rate=96000, snr=-3, target=0.99),
    Condition(name="8 kHz, -3 dB", rate=8000, snr=-3, target=0.99),
    Condition(name="31 locations", places=(31, 31)),
    Condition(name="31 locations, -3 dB", places=(31, 31), snr=-3, target=0.99),
    Condition(name="back to back", messages=2),
    Condition(name="end cut off", ends=False),
    Condition(name="clipping", channel=clipped),
    Condition(name="DC steps", channel=steps),
)
