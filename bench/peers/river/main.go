// River on Postgres: `river install`, `river worker`, or a load: `river MODE --seconds S | --count N`.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	connections = 20
	maxWorkers  = 1000 // jobs of one worker process at once
	concurrency = 64   // concurrent calls of the client
	bulk        = 1000
	idlePause   = 20 * time.Millisecond
	// The default of 100 ms would limit one process to maxWorkers jobs each 100 ms.
	fetchCooldown = 2 * time.Millisecond
)

type noop struct {
	SentNs int64 `json:"sent_ns"`
}

func (noop) Kind() string { return "noop" }

type noopWorker struct {
	river.WorkerDefaults[noop]
	tally *os.File
}

func (w *noopWorker) Work(_ context.Context, job *river.Job[noop]) error {
	var record [8]byte
	binary.LittleEndian.PutUint64(record[:], uint64(time.Now().UnixNano()-job.Args.SentNs))
	_, err := w.tally.Write(record[:])
	return err
}

func now() noop { return noop{SentNs: time.Now().UnixNano()} }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(os.Getenv("BENCH_DSN"))
	check(err)
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	check(err)
	defer pool.Close()
	switch mode := os.Args[1]; mode {
	case "install":
		migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
		check(err)
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
		check(err)
	case "worker":
		work(ctx, pool)
	default:
		load(ctx, pool, mode, os.Args[2:])
	}
}

func client(pool *pgxpool.Pool, config *river.Config) *river.Client[pgx.Tx] {
	config.FetchCooldown = fetchCooldown // of a client that inserts, the pause between two notifications
	config.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	made, err := river.NewClient(riverpgxv5.New(pool), config)
	check(err)
	return made
}

func work(ctx context.Context, pool *pgxpool.Pool) {
	path := os.Getenv("BENCH_TALLY") + "/" + strconv.Itoa(os.Getpid())
	tally, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	check(err)
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{tally: tally})
	running := client(pool, &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: maxWorkers}},
		Workers: workers,
	})
	check(running.Start(ctx))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	<-signals
	check(running.Stop(ctx))
}

func load(ctx context.Context, pool *pgxpool.Pool, mode string, arguments []string) {
	flags := flag.NewFlagSet(mode, flag.ExitOnError)
	seconds := flags.Float64("seconds", 3600, "")
	count := flags.Int64("count", 1<<62, "")
	check(flags.Parse(arguments))
	inserter := client(pool, &river.Config{})
	insert := func() {
		_, err := inserter.Insert(ctx, now(), nil)
		check(err)
	}
	insert()
	var spent atomic.Int64
	began, cpu := time.Now(), cpuSeconds()
	take := func(wanted int64) int64 {
		if time.Since(began).Seconds() >= *seconds {
			return 0
		}
		left := *count - (spent.Add(wanted) - wanted)
		return max(0, min(wanted, left))
	}
	switch mode {
	case "single":
		for take(1) > 0 {
			insert()
		}
	case "idle":
		for take(1) > 0 {
			insert()
			time.Sleep(idlePause)
		}
	case "concurrent":
		var all sync.WaitGroup
		for range concurrency {
			all.Add(1)
			go func() {
				defer all.Done()
				for take(1) > 0 {
					insert()
				}
			}()
		}
		all.Wait()
	case "bulk":
		for size := take(bulk); size > 0; size = take(bulk) {
			params := make([]river.InsertManyParams, size)
			for place := range params {
				params[place] = river.InsertManyParams{Args: now()}
			}
			_, err := inserter.InsertManyFast(ctx, params)
			check(err)
		}
	default:
		check(fmt.Errorf("%s: no such mode", mode))
	}
	figures := map[string]float64{
		"count":       float64(min(spent.Load(), *count)),
		"before":      1,
		"seconds":     time.Since(began).Seconds(),
		"cpu_seconds": cpuSeconds() - cpu,
	}
	check(json.NewEncoder(os.Stdout).Encode(figures))
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}
