package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// curve is a line of a plot. Curves of one name share a colour and an entry in the legend.
type curve struct {
	name string
	x, y []float64
}

// plot is drawn as SVG, without scripts.
type plot struct {
	title  string
	xLabel string
	yLabel string
	logY   bool
	xTicks []tick // none: round numbers
	curves []curve
}

type tick struct {
	at   float64
	text string
}

const (
	plotWidth, plotHeight                            = 560.0, 300.0
	marginLeft, marginRight, marginTop, marginBottom = 64.0, 14.0, 30.0, 62.0
	colours                                          = 8 // classes c0 to c7 of the page's style
)

// svg draws the plot, or nothing when there is nothing to draw.
func (p plot) svg() template.HTML {
	x, y := span(p.curves, func(c curve) []float64 { return c.x }, false), span(p.curves, func(c curve) []float64 { return c.y }, p.logY)
	if x.empty() || y.empty() {
		return ""
	}
	if !p.logY {
		y.from = 0
	}
	xTicks, yTicks := p.xTicks, round(y)
	if xTicks == nil {
		xTicks = round(x)
	}
	if p.logY {
		y, yTicks = decades(y)
	}
	px := func(v float64) float64 { return marginLeft + x.share(v)*(plotWidth-marginLeft-marginRight) }
	py := func(v float64) float64 {
		return plotHeight - marginBottom - y.share(v)*(plotHeight-marginTop-marginBottom)
	}

	b := &strings.Builder{}
	fmt.Fprintf(b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, plotHeight, html.EscapeString(p.title))
	fmt.Fprintf(b, `<text class="title" x="%g" y="16">%s</text>`, marginLeft, html.EscapeString(p.title))
	for _, t := range yTicks {
		if t.at < y.from || t.at > y.to {
			continue
		}
		fmt.Fprintf(b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, marginLeft, plotWidth-marginRight, py(t.at), py(t.at))
		fmt.Fprintf(b, `<text class="tick" text-anchor="end" x="%g" y="%.1f">%s</text>`, marginLeft-6, py(t.at)+4, t.text)
	}
	for _, t := range xTicks {
		if t.at < x.from || t.at > x.to {
			continue
		}
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`, px(t.at), px(t.at), marginTop, plotHeight-marginBottom)
		fmt.Fprintf(b, `<text class="tick" text-anchor="middle" x="%.1f" y="%g">%s</text>`, px(t.at), plotHeight-marginBottom+15, t.text)
	}
	fmt.Fprintf(b, `<text class="tick" text-anchor="end" x="%g" y="%g">%s</text>`, plotWidth-marginRight, plotHeight-marginBottom+30, html.EscapeString(p.xLabel))
	fmt.Fprintf(b, `<text class="tick" transform="translate(13 %g) rotate(-90)">%s</text>`, plotHeight-marginBottom, html.EscapeString(p.yLabel))
	p.lines(b, px, py, y.from)
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) // every text in it was escaped above
}

func (p plot) lines(b *strings.Builder, px, py func(float64) float64, floor float64) {
	classes := map[string]int{}
	legend := marginLeft
	for _, c := range p.curves {
		class, known := classes[c.name]
		if !known {
			class = len(classes)
			classes[c.name] = class
		}
		fmt.Fprintf(b, `<polyline class="c%d" points="`, class%colours)
		for i := range c.x {
			fmt.Fprintf(b, "%.1f,%.1f ", px(c.x[i]), py(math.Max(c.y[i], floor)))
		}
		fmt.Fprintf(b, `"><title>%s</title></polyline>`, html.EscapeString(c.name))
		if !known {
			y := plotHeight - 12.0
			fmt.Fprintf(b, `<line class="c%d" x1="%.0f" x2="%.0f" y1="%g" y2="%g"/>`, class%colours, legend, legend+18, y-4, y-4)
			fmt.Fprintf(b, `<text class="tick" x="%.0f" y="%g">%s</text>`, legend+23, y, html.EscapeString(c.name))
			legend += 40 + 6.6*float64(len(c.name))
		}
	}
}

// axis is a range of values.
type axis struct {
	from, to float64
	log      bool
}

func span(curves []curve, of func(curve) []float64, log bool) axis {
	a := axis{math.Inf(1), math.Inf(-1), log}
	for _, c := range curves {
		for _, v := range of(c) {
			if !log || v > 0 {
				a.from, a.to = math.Min(a.from, v), math.Max(a.to, v)
			}
		}
	}
	return a
}

func (a axis) empty() bool { return a.from > a.to || a.to <= 0 }

func (a axis) share(v float64) float64 {
	from, to := a.from, a.to
	if a.log {
		v, from, to = math.Log10(v), math.Log10(from), math.Log10(to)
	}
	if to == from {
		return 0.5
	}
	return (v - from) / (to - from)
}

// round are about five round numbers in a.
func round(a axis) (ticks []tick) {
	step := math.Pow(10, math.Floor(math.Log10((a.to-a.from)/4)))
	if math.IsNaN(step) || step <= 0 || math.IsInf(step, 0) {
		return []tick{{a.to, number(a.to)}}
	}
	for _, by := range []float64{5, 2} {
		if (a.to-a.from)/(step*by) >= 3 {
			step *= by
			break
		}
	}
	for v := math.Ceil(a.from/step) * step; v <= a.to*1.0001; v += step {
		ticks = append(ticks, tick{v, number(v)})
	}
	return ticks
}

// decades widens a to whole powers of ten and marks them.
func decades(a axis) (axis, []tick) {
	low, high := math.Floor(math.Log10(a.from)), math.Ceil(math.Log10(a.to))
	if low == high {
		high++
	}
	var ticks []tick
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		ticks = append(ticks, tick{v, number(v)})
	}
	return axis{math.Pow(10, low), math.Pow(10, high), true}, ticks
}
