// Measures an audio track's level with WebAudio. Knows no page and no room.

const FLOOR_DBFS = -60; // the meter's zero
const SPEECH_DBFS = -46; // above it is speech; codec noise and room tone stay below
const HANGOVER_MS = 450; // pauses between words count as speech
const LOWEST_HZ = 90;
const HIGHEST_HZ = 5000;

/** Measures one audio track at a time. */
export class LevelMeter {
  #context = new AudioContext({ latencyHint: "interactive" });
  #analyser = new AnalyserNode(this.#context, { fftSize: 1024, smoothingTimeConstant: 0.6 });
  #source = null;
  #wave = new Float32Array(this.#analyser.fftSize);
  #spectrum = new Float32Array(this.#analyser.frequencyBinCount);
  #edges;
  #heardAt = -Infinity;

  /** @param {number} bands how many bands `read()` returns, low to high */
  constructor(bands) {
    const binHz = this.#context.sampleRate / this.#analyser.fftSize;
    this.#edges = Array.from({ length: bands + 1 }, (_, i) =>
      Math.round((LOWEST_HZ * (HIGHEST_HZ / LOWEST_HZ) ** (i / bands)) / binHz),
    );
  }

  /** False while the browser blocks audio until a click. */
  get running() {
    return this.#context.state === "running";
  }

  /** Resume blocked audio; call it from a click's handler. */
  async resume() {
    await this.#context.resume();
  }

  /** Measure this MediaStreamTrack from now on; null: none. */
  follow(track) {
    this.#source?.disconnect();
    this.#source = null;
    if (track === null) return;
    this.#source = new MediaStreamAudioSourceNode(this.#context, {
      mediaStream: new MediaStream([track]),
    });
    this.#source.connect(this.#analyser);
  }

  /**
   * Measure now.
   *
   * @returns {{dbfs: number, level: number, audible: boolean, bands: number[]}} root mean square
   *   in dB of full scale; the same as 0..1; whether it is speech (including pauses between
   *   words); the spectrum as 0..1 per band
   */
  read() {
    if (this.#source === null || !this.running) {
      return { dbfs: FLOOR_DBFS, level: 0, audible: false, bands: this.#edges.slice(1).fill(0) };
    }
    this.#analyser.getFloatTimeDomainData(this.#wave);
    let power = 0;
    for (const sample of this.#wave) power += sample * sample;
    const dbfs = Math.max(FLOOR_DBFS, 10 * Math.log10(power / this.#wave.length + 1e-12));
    const now = performance.now();
    if (dbfs > SPEECH_DBFS) this.#heardAt = now;
    return {
      dbfs,
      level: 1 - dbfs / FLOOR_DBFS,
      audible: now - this.#heardAt < HANGOVER_MS,
      bands: this.#bands(),
    };
  }

  async close() {
    this.follow(null);
    if (this.#context.state !== "closed") await this.#context.close();
  }

  #bands() {
    this.#analyser.getFloatFrequencyData(this.#spectrum);
    return this.#edges.slice(1).map((end, i) => {
      const begin = Math.min(this.#edges[i], end - 1);
      let loudest = -Infinity;
      for (let bin = begin; bin < end; bin += 1) loudest = Math.max(loudest, this.#spectrum[bin]);
      return Math.min(1, Math.max(0, (loudest + 85) / 60)); // -85 dB is silence, -25 dB is full
    });
  }
}
