// Search where pages are files: browsers start no workers from file://, so a hidden frame stands in for one.
if (location.protocol === "file:") {
  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = (this.inside = frame.contentWindow)
      const page = inside.document
      page.open()
      page.write("<!doctype html><html><body></body></html>")
      page.close()

      const load = src =>
        new Promise((done, failed) => {
          const script = page.createElement("script")
          script.src = src
          script.onload = done
          script.onerror = failed
          page.body.append(script)
        })
      inside.importScripts = async (...sources) => {
        for (const src of sources) await load(src)
      }
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.ready = load(url)
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
  window.Worker = window.IFrameWorker
}
