// Search when the documentation is opened as a file: browsers start no Worker from file://, so its script runs in a
// hidden frame instead. Over http(s) this does nothing.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super()
    this.frame = document.createElement("iframe")
    this.frame.hidden = true
    this.inside = new Promise((resolve, reject) => {
      this.frame.addEventListener("load", () => {
        const inside = this.frame.contentWindow
        inside.postMessage = data => this.receive(data)
        inside.importScripts = async (...urls) => { for (const each of urls) await this.load(each) }
        this.load(url).then(() => resolve(inside), reject)
      }, { once: true })
    })
    document.body.append(this.frame)
  }

  load(url) {
    const script = this.frame.contentDocument.createElement("script")
    return new Promise((resolve, reject) => {
      script.onload = resolve
      script.onerror = () => reject(new Error(`${url}: cannot be loaded`))
      script.src = url
      this.frame.contentDocument.body.append(script)
    })
  }

  receive(data) {
    const event = new MessageEvent("message", { data })
    this.dispatchEvent(event)
    this.onmessage?.(event)
  }

  postMessage(data) {
    this.inside.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
  }

  terminate() {
    this.frame.remove()
  }
}

window.IFrameWorker = IFrameWorker
if (location.protocol === "file:") window.Worker = IFrameWorker
