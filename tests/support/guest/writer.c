/* One counter, written with O_DSYNC to every mounted disk in turn. Prints how long the slowest round took.
 *
 * usage: writer INTERVAL_US DIRECTORY...
 * Every round k writes "k" to DIRECTORY/counter of each disk, so at any instant the disks hold k or k-1 and the
 * order of the disks says which: a set of snapshots of one instant shows max - min <= 1, falling only once.
 * Lines on the console: "beat k=<round> slowest_ms=<ms>", about four a second.
 * Directories that appear below /mnt later are taken up between rounds; those that vanish are dropped.
 * A number in /run/interval replaces INTERVAL_US, so that a test can make the guest idle or busy while it runs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_DISKS 26
static int handles[MAX_DISKS];

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000.0 + t.tv_nsec / 1e6;
}

static int mounted(const char *path) {
    struct stat own, parent;
    return stat(path, &own) == 0 && stat("/mnt", &parent) == 0 && own.st_dev != parent.st_dev;
}

static void take_up_disks(void) {
    char path[64];
    for (int i = 0; i < MAX_DISKS; i++) {
        snprintf(path, sizeof path, "/mnt/vd%c", 'a' + i);
        if (handles[i] < 0 && mounted(path)) {
            snprintf(path, sizeof path, "/mnt/vd%c/counter", 'a' + i);
            handles[i] = open(path, O_RDWR | O_CREAT | O_DSYNC, 0600);
        } else if (handles[i] >= 0 && !mounted(path)) {
            close(handles[i]);
            handles[i] = -1;
        }
    }
}

static useconds_t current_interval(useconds_t known) {
    FILE *file = fopen("/run/interval", "r");
    unsigned found;
    if (!file) return known;
    if (fscanf(file, "%u", &found) == 1) known = found;
    fclose(file);
    return known;
}

static long last_round(void) {
    long highest = 0;
    char text[32];
    for (int i = 0; i < MAX_DISKS; i++) {
        if (handles[i] < 0) continue;
        ssize_t n = pread(handles[i], text, sizeof text - 1, 0);
        if (n <= 0) continue;
        text[n] = 0;
        if (atol(text) > highest) highest = atol(text);
    }
    return highest;
}

int main(int argc, char **argv) {
    useconds_t interval = argc > 1 ? (useconds_t)atol(argv[1]) : 20000;
    char record[512];
    for (int i = 0; i < MAX_DISKS; i++) handles[i] = -1;
    take_up_disks();
    long round = last_round();
    double slowest = 0, beat = now_ms(), scanned = beat;
    for (;;) {
        double start = now_ms();
        round++;
        memset(record, '\n', sizeof record);
        record[sprintf(record, "%ld", round)] = '\n';
        for (int i = 0; i < MAX_DISKS; i++)
            if (handles[i] >= 0 && pwrite(handles[i], record, sizeof record, 0) < 0) {
                close(handles[i]);
                handles[i] = -1;
            }
        double end = now_ms();
        if (end - start > slowest) slowest = end - start;
        if (end - beat >= 250) {
            printf("beat k=%ld slowest_ms=%.1f\n", round, slowest);
            fflush(stdout);
            slowest = 0;
            beat = end;
        }
        if (end - scanned >= 500) {
            take_up_disks();
            interval = current_interval(interval);
            scanned = end;
        }
        usleep(interval);
    }
}
